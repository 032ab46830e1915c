"""Python in a process of its own, for tests of several devices and processes."""

import os
import pathlib
import subprocess
import sys


def run_python(code, **environment):
    """Run code in the folder of the tests, on the CPU; it must end without an error."""
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=600,
        cwd=pathlib.Path(__file__).parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
