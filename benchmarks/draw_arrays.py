"""Uniform and normal numbers as new arrays: Intel's vector generators by mkl_random.

The peer takes its best generator and method for the machine. It has float64 arrays only, while
jaxgen's are float32.
"""

import jaxgen
from benchmarks import twins
from benchmarks.peer_process import Apart

DIM = 2


def run(harness):
    n = harness.pick(10**6, 10**4)
    for kind in ("uniform", "normal"):
        draw = getattr(jaxgen.random, kind)
        makes = {
            "jaxgen": lambda n, draw=draw: lambda: draw(twins.KEY, (n, DIM)),
            "mkl_random": lambda n, kind=kind: Apart("mkl_peer", kind, (n, DIM)),
        }
        case, work = f"{kind}, {n:,} x {DIM}, float32 : float64", ("bytes", 4 * DIM * n)
        yield from harness.compare(case, n, makes, {"mkl_random": 1.5}, n=n, work=work)
