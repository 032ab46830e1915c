"""The harness, which times the sides of a case and makes the rows of the results.

Rules: all sides are warm; a call ends when its result is computed; repeats are interleaved (a, b,
c, a, b, c), so that disturbances affect all sides; figures are medians. The first side is jaxgen,
and the ratio of another side is its median over jaxgen's. Compilation and memory are measured
separately.
"""

import math
import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.machine import version
from benchmarks.peer_process import Apart
from benchmarks.timing import Here, NewProcess

_REPEAT = 0.25  # least seconds of a repeat, since the first call after a peer's has cold caches
FIELDS = (
    "question", "case", "side", "device", "machine", "n", "seconds_median", "seconds_iqr",
    "repeats", "calls", "events_per_second", "ratio_to_ours", "compile_seconds", "peak_mib",
    "roofline_fraction", "work", "bytes_or_flops", "target", "date", "note",
)  # fmt: skip


class Harness:
    """The argument of the ``run`` function of each question.

    Args:
      device, machine, date: recorded in each row.
      limits: "bytes" and "flops" per second that the machine reaches.
      quick: use small sizes and few repeats, to test that all questions run.
    """

    def __init__(
        self, device: str, machine: str, date: str, limits: dict[str, float], quick: bool = False
    ):
        self.device, self.machine, self.date = device, machine, date
        self.limits, self.quick = limits, quick
        self.question = ""
        self.least, self.most = (2, 2) if quick else (5, 31)  # repeats
        self.seconds = 3.0  # for a case, unless the least number of repeats takes longer
        self.pause = 0 if quick else 0.03  # before a repeat, since idle BLAS threads still spin

    def pick(self, full, quick):
        """``full``, or ``quick`` in a quick run."""
        return quick if self.quick else full

    def compare(
        self,
        case: str,
        argument: Any,
        makes: dict[str, Callable[[Any], Any]],
        targets: dict[str, float | str] | None = None,
        *,
        n: int | None = None,
        work: tuple[str, float] = ("bytes", 0),
        examine: Callable[[dict[str, Any], Any], None] | None = None,
        **more: Any,
    ) -> list[dict[str, Any]]:
        """Time all sides of a case; return one row for each side.

        Args:
          case: description of the case with its sizes.
          argument: the argument of all functions in ``makes``.
          makes: functions by the name of the side, jaxgen first; each prepares and returns the call
            to time, a ``Here``, an ``Apart`` or a ``NewProcess``. A name begins with that of the
            package, such as "jax.random" or "scikit-learn, float64".
          targets: by side, the least ratio, or a condition on a field, such as
            "error_nats <= 2e-4".
          n: events in a call.
          work: ("bytes", number written) or ("flops", number of operations) in a call.
          examine: function of the row and a result of each side that runs in this process.
          more: further fields of the rows.
        """
        jax.clear_caches()  # else programs of an earlier case are not compiled again
        rows, live = [], []
        for name, make in makes.items():
            target = (targets or {}).get(name)
            if isinstance(target, (int, float)):
                target = f"ratio_to_ours >= {target}"
            about = {"question": self.question, "device": self.device, "machine": self.machine}
            about |= {"date": self.date, "case": case, "side": name, "n": n, "target": target}
            rows.append(dict.fromkeys(FIELDS) | about | more)
            package = name.split(",")[0].split(".")[0].lower()
            if package != "jaxgen" and version(package) is None:  # jaxgen may be the folder alone
                rows[-1]["note"] = "not installed"
                continue
            try:
                made = make(argument)
                runner = made if isinstance(made, Here | Apart | NewProcess) else Here(made)
                first, warm = runner.time(1), runner.time(1)
            except Exception as error:
                traceback.print_exc()
                rows[-1]["note"] = f"failed: {error!r:.200}"
            else:
                calls = min(math.ceil(_REPEAT / warm), 10_000)
                live.append((runner, rows[-1], calls, first, []))
        began = time.perf_counter()
        for done in range(self.most):
            if done >= self.least and time.perf_counter() - began > self.seconds:
                break
            for runner, _, calls, _, times in live:
                time.sleep(self.pause)
                times.append(runner.time(calls))
        for runner, row, calls, first, times in live:
            median = statistics.median(times)
            row |= {
                "seconds_median": median,
                "seconds_iqr": float(np.subtract(*np.quantile(times, [0.75, 0.25]))),
                "repeats": len(times),
                "calls": calls,
                "events_per_second": n / median if n else None,
                "compile_seconds": max(first - median, 0),
                "work": work[0],
                "bytes_or_flops": work[1] or None,
                "roofline_fraction": work[1] / median / self.limits[work[0]] or None,
            }
            if rows[0]["seconds_median"]:
                row["ratio_to_ours"] = median / rows[0]["seconds_median"]
            row["peak_mib"] = runner.peak_mib()
            if examine and isinstance(runner, Here):
                examine(row, runner.result)
        return rows


def agreement(tolerance: float) -> Callable[[dict[str, Any], Any], None]:
    """An ``examine`` for which a side fails if its result differs more from the first side's."""
    expected = []

    def examine(row, result):
        expected.append(np.asarray(result))
        worst = row["difference"] = float(np.abs(expected[0] - expected[-1]).max())
        if not worst <= tolerance:
            row["note"] = f"failed: the results differ by {worst:.2g}"

    return examine


def met(row: dict[str, Any]) -> bool | None:
    """Whether the row reaches its target; None if it has no target or no figure."""
    if row["target"] is None:
        return None
    field, sign, value = row["target"].split()
    gap = None if row.get(field) is None else row[field] - float(value)
    return None if gap is None else gap >= 0 if sign == ">=" else gap <= 0
