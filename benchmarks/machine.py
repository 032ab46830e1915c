"""The machine that figures are measured on: its hardware, versions, and limits of its speed."""

import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

PEERS = (
    "numpy", "scipy", "scikit-learn", "torch", "numpyro", "distrax", "gmmx", "flowjax", "zuko",
    "nflows", "mkl_random",
)  # fmt: skip


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(quick: bool = False) -> dict[str, Any]:
    """The machine, the versions of packages, and the limits of the machine, as a record."""
    return {
        "machine": {
            "cpu": _cpu_field("model name") or platform.processor(),
            "cores": os.cpu_count(),
            "vectors": _vectors(),
            "device": device(),
            "os": platform.platform(),
            "load": os.getloadavg()[0],  # of other processes
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jaxgen", "jax", "jaxlib", *PEERS)},
        "limits": _limits(quick),
    }


def name(record: dict[str, Any]) -> str:
    """The machine of a record of ``describe``, such as "AMD EPYC, 2 cores, AVX2", or its GPU."""
    if record["device"] != "cpu":
        return record["device"]
    cpu = re.sub(r"\((R|TM)\)| Processor| CPU|@.*", "", record["cpu"]).strip() or "CPU"
    parts = cpu, f"{record['cores']} cores", record.get("vectors")
    return ", ".join(part for part in parts if part)


def name_of_row(row: dict[str, Any], runs: dict[str, Any]) -> str:
    """The machine of a row; rows of older files name it by the run of their date alone."""
    return row.get("machine") or name(runs[row["date"]]["machine"])


def device() -> str:
    """The name of the device, such as "cpu" or "NVIDIA H200"."""
    return jax.devices()[0].device_kind


def torch_device() -> str:
    """The device of torch that JAX uses too: "cuda" or "cpu"."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def _limits(quick) -> dict[str, float]:
    """The roofline: the most bytes written and floating-point operations in a second."""
    on_cpu = jax.default_backend() == "cpu"
    wide = on_cpu and _vectors() == "AVX-512"
    options = {"xla_cpu_prefer_vector_width": 512} if wide else None

    # kept, since JAX drops an unused argument and would not reuse its buffer
    fill = jax.jit(jnp.full_like, donate_argnums=0, keep_unused=True, compiler_options=options)
    buffer, rates = jnp.zeros((2**26 if on_cpu else 2**28) // (4 if quick else 1)), []
    for value in range(8):
        began = time.perf_counter()
        buffer = fill(buffer, float(value)).block_until_ready()
        rates.append(buffer.nbytes / (time.perf_counter() - began))

    multiply_add = jax.jit(_multiply_add, static_argnums=3, compiler_options=options)
    x, flop_rates = jnp.ones(2**20 if on_cpu else 2**26), []
    for chains in (4, 8) * 8:  # the number that hides latency depends on the machine
        began = time.perf_counter()
        multiply_add(x, 0.9, 0.1, chains).block_until_ready()
        flop_rates.append(2 * _LENGTH * x.size / (time.perf_counter() - began))
    return {"bytes": max(rates), "flops": max(flop_rates)}


_LENGTH = 256  # multiply-adds for each element, so that arithmetic takes longer than memory access


def _multiply_add(x, factor, term, chains):
    values = [x + i for i in range(chains)]
    for _ in range(_LENGTH // chains):
        values = [v * factor + term for v in values]
    return sum(values)


def _vectors() -> str | None:
    """The widest vector instructions of the processor; None if they are not known."""
    flags = _cpu_field("flags").split()
    return "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else None


def _cpu_field(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith(name)), "")
