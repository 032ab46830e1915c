"""The time of a training step: long fits minus short ones, as a fit also scores and compiles."""

import functools


def compare_steps(harness, case, few, many, data, sides, target):
    """Rows of both fits; those of the second have ``step_seconds`` and ``step_ratio``.

    Args:
      harness: the harness.
      case: the name of the case, without the number of steps.
      few, many: numbers of steps.
      data: a function of a number of steps that returns the training data.
      sides: functions of (data, steps) that return the call to time, by name; jaxgen first.
      target: least ratio of a step, by name.
    """
    rows = []
    for steps in (few, many):
        makes = {name: functools.partial(make, steps=steps) for name, make in sides.items()}
        wanted = {name: f"step_ratio >= {least}" for name, least in target.items()}
        targets = wanted if steps == many else None
        rows.append(harness.compare(f"{steps} steps of {case}", data(steps), makes, targets))
    for before, row in zip(*rows, strict=True):
        if before["seconds_median"] and row["seconds_median"]:
            more = row["seconds_median"] - before["seconds_median"]
            row["step_seconds"] = more / (many - few)
            row["step_ratio"] = row["step_seconds"] / rows[1][0]["step_seconds"]
    return rows[0] + rows[1]
