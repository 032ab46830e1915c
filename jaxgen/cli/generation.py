"""The commands ``generate`` and ``verify``: events in bulk, in a folder of files."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax

from jaxgen.cli import commands, events, texts
from jaxgen.data import bulk
from jaxgen.data.bulk import cost, manifest, verification
from jaxgen.training.fitted import Fitted


def generate(args: Namespace) -> None:
    """Draw events into a folder of files, or print what that would cost."""
    fitted = commands.load_for(args)
    if fitted.vocabulary is not None:
        fitted = texts.changed(args, fitted)
    y = _conditions(args, fitted)
    n = args.n
    if args.given_file is not None:
        if n not in (None, len(y)):
            raise ValueError(f"-n {n}: {args.given_file} has {len(y):,} rows; leave out -n")
        n = len(y)
    options = {
        "y": y,
        "file_format": args.format,
        "log_prob": args.log_prob,
        "block_rows": args.block_rows,
    }
    if args.plan:
        print(cost.plan(fitted, n, args.out, **options))
        return
    if n is None:
        raise ValueError("generate needs -n N, the number of events, or --given-file")
    before, began = _state(args.out), time.perf_counter()
    try:
        bulk.generate(
            fitted, n, args.out, key=jax.random.key(args.seed), shard=args.shard,
            resume=args.resume, **options,
        )  # fmt: skip
    except KeyboardInterrupt:
        message = f"jaxgen: stopped: finished blocks stay in {args.out}, and --resume goes on"
        print(message, file=sys.stderr)
        raise SystemExit(130) from None
    except ValueError as error:
        raise ValueError(str(error).replace("pass resume=True", "use --resume")) from error
    _print_result(args, before, time.perf_counter() - began)
    texts.print_changes(args)


def verify(args: Namespace) -> None:
    """Compare the files of a folder with what ``generate`` wrote."""
    print(f"{args.directory}: {verification.verify(args.directory)}")


def _conditions(args: Namespace, fitted: Fitted) -> Any:
    """The labels or conditions of --given or --given-file, or None."""
    y, features = events.given(fitted, args.given)
    if features:
        raise ValueError(
            "--given: generate draws given a label or conditions, but not given features, as "
            "jaxgen sample does"
        )
    if args.given_file is None:
        return y
    if y is not None:
        raise ValueError("--given and --given-file exclude each other")
    return events.given_rows(fitted, args.given_file)


class _State:
    """The finished blocks of a folder: their number, events and bytes, and that of all blocks."""

    def __init__(self, found: manifest.Manifest, blocks: dict[int, manifest.Block]):
        self.of, self.blocks = found.count, len(blocks)
        self.events = sum(block.rows for block in blocks.values())
        self.bytes = sum(file.size for block in blocks.values() for file in block.files)


def _state(directory: str) -> _State | None:
    """What a folder holds; None if it is new."""
    found = manifest.read(Path(directory))
    return None if found is None else _State(found, manifest.finished(Path(directory), found))


def _print_result(args: Namespace, before: _State | None, seconds: float) -> None:
    now = _state(args.out)
    assert now is not None
    finished = "1 block" if now.of == 1 else f"{now.blocks:,} blocks"
    if now.blocks < now.of:
        finished = f"{now.blocks:,} of {now.of:,} blocks, the others not yet"
    print(f"{now.events:,} events, {cost.bytes_in_words(now.bytes)}, in {args.out}: {finished}")
    drawn = now.events - (0 if before is None else before.events)
    if drawn and args.shard is None:  # else others draw too
        taken = cost.time_in_words(seconds)
        print(f"{drawn:,} events drawn in {taken}, {drawn / seconds:.3g} per second")
