"""Mutants: bugs planted in the library one at a time, to see that the tests notice each of them.

A mutant is a small change of one file that a programmer could make by mistake and that runs
without a complaint: a sign, an axis, a dropped weight, a stale cache. The tests named beside it
should fail. Whoever makes the tests quicker runs them all before and after:

    python tests/mutants.py                          # all
    python tests/mutants.py engine_high_word         # some
    python tests/mutants.py --root OTHER --json FILE # those of another checkout, kept in a file
    python tests/mutants.py --check                  # do they still fit the source?

The repository is copied and only the copy is changed. At the end the tests that failed run once
without a mutant, so that a test that always fails does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900.0  # seconds after which a mutant hangs
LEFT_OUT = (".git", ".venv*", "__pycache__", ".*_cache", "*.egg-info", "build", "dist", "out")
COLUMNS = "{:<34} {:<30} {:<22} {:>5}  {}"


class Mutant(NamedTuple):
    """A bug to plant.

    Attributes:
      name: short, unique.
      file: the file to change, from the root of the repository.
      old: text that occurs once in it.
      new: what takes its place.
      tests: arguments of pytest that select the tests that should fail; files may be globs.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes:
      mutant: its name.
      file: the file that was changed.
      verdict: "caught", "caught at collection", "NOT CAUGHT", "HANGS", "NO TESTS" (nothing was
        selected) or "FAILS ANYWAY" (without the mutant too).
      test: the first test that failed, or the file that could not be collected.
      seconds: of the run.
    """

    mutant: str
    file: str
    verdict: str
    test: str
    seconds: float


MUTANTS: tuple[Mutant, ...] = (
    # the engine: blocks, rows, threads
    Mutant(
        "engine_high_word",
        "jaxgen/core/engine.py",
        "[[s >> 32 & 0xFFFFFFFF, s & 0xFFFFFFFF] for s in starts]",
        "[[0, s & 0xFFFFFFFF] for s in starts]",
        ("tests/test_engine*.py", "-k", "a_stream_starts"),
    ),
    Mutant(
        "engine_block_repeats",
        "jaxgen/core/engine.py",
        "starts = [start + first + i * size for i",
        "starts = [start + i * size for i",
        ("tests/test_engine*.py", "-k", "stream_of_many or stream_is_sample"),
    ),
    Mutant(
        "engine_padding_kept",
        "jaxgen/core/host_arrays.py",
        "np.asarray(part)[keep]",
        "np.asarray(part)[: end - start]",
        ("tests/test_engine*.py", "-k", "prefix or of_any_size"),
    ),
    Mutant(
        "engine_thread_settings",
        "jaxgen/core/engine.py",
        "return program(*arguments) if _settings() == settings else None",
        "return program(*arguments)",
        ("tests/test_engine*.py", "-k", "run_in_threads"),
    ),
    Mutant(
        "engine_missing_ignored",
        "jaxgen/core/engine.py",
        "return verb.missing if has_missing(values) else verb.rows",
        "return verb.rows",
        ("tests/test_missing*.py", "-k", "Gaussian"),
    ),
    Mutant(
        "engine_missing_seen_late_ignored",
        "jaxgen/core/engine.py",
        "if has_missing(first_of_row) and has_missing(request.values):",
        "if False:",
        ("tests/test_engine_calls.py", "-k", "beyond_the_rows"),
    ),
    Mutant(
        "engine_overlap_kept",
        "jaxgen/core/engine.py",
        "keep = slice(skipped, skipped + rest)",
        "keep = slice(0, rest)",
        ("tests/test_engine_calls.py", "-k", "last_block"),
    ),
    Mutant(
        "gaussian_far_gradients",
        "jaxgen/models/normal/density.py",
        "(jnp.where(near, x, mean) - mean)) ** 2",
        "(x - mean)) ** 2",
        ("tests/test_fast_bodies_numerics.py", "-k", "guarded"),
    ),
    Mutant(
        "bernoulli_without_a_guard",
        "jaxgen/models/discrete.py",
        "outside = -jnp.inf * jnp.abs(lax.stop_gradient(x))",
        "outside = -jnp.inf",
        ("tests/test_fast_bodies_numerics.py", "-k", "guarded"),
    ),
    Mutant(
        "logsumexp_loses_nan",
        "jaxgen/core/numerics.py",
        "lax.stop_gradient(terms).sum(axis))  # -inf or NaN",
        "-jnp.inf)",
        ("tests/test_engine_calls.py", "-k", "nan_and_infinity"),
    ),
    Mutant(
        "engine_whole_repeats",
        "jaxgen/core/engine.py",
        "later(start, i.astype(jnp.uint32) * np.uint32(size))",
        "later(start, i.astype(jnp.uint32) * np.uint32(0))",
        ("tests/test_engine_calls.py", "-k", "is_the_stream"),
    ),
    Mutant(
        "engine_device_missing",
        "jaxgen/core/verbs.py",
        "return lax.cond(found, lambda: missing(*arguments), lambda: verb.rows(*arguments))",
        "return verb.rows(*arguments)",
        ("tests/test_engine_calls.py", "-k", "stay_there"),
    ),
    Mutant(
        "tracing_unseen",
        "jaxgen/core/tracing.py",
        "if _trace_state is not None and _trace_state() == _state_outside():",
        "if _trace_state is not None:",
        ("tests/test_engine_calls.py", "-k", "tracing"),
    ),
    # the pure functions
    Mutant(
        "batch_nan_in_y",
        "jaxgen/core/batch.py",
        "each.append(~jnp.isnan(y))",
        "pass",
        ("tests/laws", "-k", "conditional_gaussian-0-conditions"),
    ),
    Mutant(
        "batch_tiles_overlap",
        "jaxgen/core/batch.py",
        "firsts = jnp.arange(count, dtype=jnp.uint32) * np.uint32(tile)",
        "firsts = jnp.arange(count, dtype=jnp.uint32)",
        ("tests/laws", "-k", "coupling2-0"),
    ),
    Mutant(
        "batch_tile_carry",
        "jaxgen/core/random/__init__.py",
        "return jnp.asarray(start)[0] + (low < jnp.asarray(start)[1]).astype(jnp.uint32), low",
        "return jnp.asarray(start)[0], low",
        ("tests/test_engine*.py", "-k", "tiles_cross"),
    ),
    Mutant(
        "batch_prior_dropped",
        "jaxgen/core/batch.py",
        "jnp.where(log_p == -jnp.inf, -jnp.inf, log_p + score)",
        "jnp.where(log_p == -jnp.inf, -jnp.inf, score)",
        ("tests/laws", "-k", "per_class-0-conditions"),
    ),
    Mutant(
        "batch_completes_by_the_prior",
        "jaxgen/core/batch.py",
        "y = jax.vmap(choose, (0, -1))(jnp.exp(posterior), words)",
        "y = jax.vmap(choose, (None, -1))(jnp.exp(prior), words)",
        ("tests/test_missing*.py", "-k", "rest_suggests"),
    ),
    Mutant(
        "batch_shares_rounded_off",
        "jaxgen/core/batch.py",
        "jax.nn.log_softmax(jnp.where(possible, joint, 0), 1)",
        "joint - logsumexp(joint, 1)[:, None]",
        ("tests/laws", "-k", "per_class-0-shares"),
    ),
    Mutant(
        "batch_any_label_known",
        "jaxgen/core/batch.py",
        "return blanked(functools.reduce(jnp.logical_and, rows), out) if rows else out",
        "return out",
        ("tests/laws", "-k", "labelled-0-labels"),
    ),
    Mutant(
        "batch_impossible_completed",
        "jaxgen/core/batch.py",
        "return jnp.where(observed, done, blanked(possible, done))",
        "return done",
        ("tests/laws", "-k", "gaussian2-0-missing"),
    ),
    # wrappers
    Mutant(
        "wrapper_frozen_names",
        "jaxgen/core/wrapper.py",
        '"/".join(map(str, (*inner.place, name)))',
        "name",
        ("tests/test_wrapper.py", "-k", "frozen"),
    ),
    Mutant(
        "wrapper_copies_without_frequencies",
        "jaxgen/core/wrapper.py",
        "elif inner.model.classes is not None:",
        "elif False:",
        ("tests/test_wrapper.py", "-k", "frequencies"),
    ),
    Mutant(
        "wrapper_missing_unasked",
        "jaxgen/core/wrapper.py",
        'if None in missing or not self.provides("complete")',
        "if None in missing",
        ("tests/test_wrapper.py", "-k", "not_promised"),
    ),
    Mutant(
        "wrapper_own_loss_forgotten",
        "jaxgen/training/rows.py",
        "any(has_own_loss(inner.model) for inner in inside)",
        "False",
        ("tests/test_wrapper.py", "-k", "a_loss_of_its_own"),
    ),
    Mutant(
        "wrapper_part_loses_the_label_prior",
        "jaxgen/core/wrapper.py",
        "if self.forwards and self.classes != self.inner[0].model.classes:",
        "if False:",
        ("tests/test_wrapper.py", "-k", "about_the_label"),
    ),
    # settings of JAX
    Mutant(
        "promotion_of_users",
        "jaxgen/core/promotion.py",
        "        if _is_standard():  # nothing to set",
        "        if True:  # nothing to set",
        ("tests/test_jax_settings.py", "-k", "strict and mixture_full"),
    ),
    Mutant(
        "promotion_of_derivatives",
        "jaxgen/bijectors/spline.py",
        "@_read.defjvp\n@standard_promotion\n",
        "@_read.defjvp\n",
        ("tests/test_jax_settings.py", "-k", "ranks and coupling1"),
    ),
    Mutant(
        "em_puts_out_nan",
        "jaxgen/training/em.py",
        "scores = jnp.zeros(room, state.score.dtype)",
        "scores = jnp.full(room, math.nan, state.score.dtype)",
        ("tests/test_jax_settings.py", "-k", "nan and mixture_full"),
    ),
    # noise and choices
    Mutant(
        "random_second_word",
        "jaxgen/core/random/__init__.py",
        "values = jnp.where(second, b, a)",
        "values = a",
        ("tests/test_random*.py", "-k", "documented or uniform_follows"),
    ),
    Mutant(
        "random_leaves_share",
        "jaxgen/core/random/__init__.py",
        "threefry.threefry2x32(key0, key1, jnp.uint32(0), jnp.uint32(i))",
        "threefry.threefry2x32(key0, key1, jnp.uint32(0), jnp.uint32(0))",
        ("tests/test_random*.py", "-k", "documented or leaves_are_independent"),
    ),
    Mutant(
        "random_row_carry",
        "jaxgen/core/random/__init__.py",
        "self.row = later(start, lines[:, None] + place)",
        "self.row = jnp.zeros_like(lines[:, None] + place), start[1] + lines[:, None] + place",
        ("tests/test_random*.py", "-k", "low_word"),
    ),
    Mutant(
        "random_words_swapped",
        "jaxgen/core/random/__init__.py",
        "jnp.stack([both.real, both.imag]",
        "jnp.stack([both.imag, both.real]",
        ("tests/test_random.py", "-k", "layouts"),
    ),
    Mutant(
        "by_index_rows_mixed",
        "jaxgen/core/by_index.py",
        "(key % np.uint32(size)).astype(jnp.int32)",
        "(key % np.uint32(size - 1)).astype(jnp.int32)",
        ("tests/test_by_index.py",),
    ),
    Mutant(
        "random_one_round",
        "jaxgen/core/random/__init__.py",
        "_ROUNDS = 5",
        "_ROUNDS = 1",
        ("tests/test_random*.py", "-k", "permute"),
    ),
    Mutant(
        "threefry_uniform_reaches_zero",
        "jaxgen/core/random/threefry.py",
        "word >> np.uint32(9)).astype(jnp.float32) + np.float32(0.5)",
        "word >> np.uint32(9)).astype(jnp.float32)",
        ("tests/test_random*.py", "-k", "ends_of_the_open"),
    ),
    Mutant(
        "choice_same_word",
        "jaxgen/core/random/choice.py",
        "aim = uniform32(words[1])",
        "aim = uniform32(words[0])",
        ("tests/test_choice*.py", "-k", "follow_the_weights"),
    ),
    Mutant(
        "choice_alias_sign",
        "jaxgen/core/random/choice.py",
        "rest = 1 + over - lacking[",
        "rest = 1 - over + lacking[",
        ("tests/test_choice*.py", "-k", "table_holds"),
    ),
    Mutant(
        "by_index_order_lost",
        "jaxgen/core/by_index.py",
        "where = jnp.zeros(size, jnp.int32).at[order].set(slot)",
        "where = slot",
        ("tests/laws", "-k", "per_class_flow-0-conditions"),
    ),
    Mutant(
        "by_index_last_tiles",
        "jaxgen/core/by_index.py",
        "tiles = -(-size // tile) + choices",
        "tiles = -(-size // tile)",
        ("tests/test_by_index*.py",),
    ),
    Mutant(
        "kmeans_no_steps",
        "jaxgen/models/kmeans.py",
        "_STEPS = 30",
        "_STEPS = 0",
        ("tests/test_kmeans*.py",),
    ),
    Mutant(
        "kmeans_distance",
        "jaxgen/models/kmeans.py",
        "(centres**2).sum(1)[:, None] - 2 * product",
        "(centres**2).sum(1)[:, None] - product",
        ("tests/test_fit*.py", "-k", "em_against or em_recovers"),
    ),
    # files and tables
    Mutant(
        "files_damage_accepted",
        "jaxgen/data/model_file.py",
        "if digest.hexdigest().encode() != place.group(1):",
        "if len(digest.hexdigest().encode()) != len(place.group(1)):",
        ("tests/test_files*.py", "-k", "bit_flip"),
    ),
    Mutant(
        "files_labels_lost",
        "jaxgen/data/model_file.py",
        "None if v is None else tuple(v) for v in (columns, labels, y_columns)",
        "None if v is None else tuple(v) for v in (columns, None, y_columns)",
        ("tests/test_labelled*.py", "-k", "names_of_labels"),
    ),
    Mutant(
        "files_strides",
        "jaxgen/data/model_file.py",
        'arrays[path] = np.array(node, order="C")',
        "arrays[path] = np.asarray(node)",
        ("tests/test_files*.py", "-k", "bit_for_bit"),
    ),
    Mutant(
        "files_tuples_as_lists",
        "jaxgen/data/model_file.py",
        'return items if kind == "list" else tuple(items)',
        "return items",
        ("tests/test_files*.py", "-k", "bit_for_bit"),
    ),
    Mutant(
        "files_names_collide",
        "jaxgen/data/model_file.py",
        '.replace("/", "~1")',
        "",
        ("tests/test_files*.py", "-k", "bit_for_bit"),
    ),
    Mutant(
        "files_size_unchecked",
        "jaxgen/data/model_file.py",
        "        _check_size(file.seek(0, os.SEEK_END), size)\n",
        "",
        ("tests/test_files*.py", "-k", "gigabytes and tensor"),
    ),
    Mutant(
        "params_sizes_unchecked",
        "jaxgen/data/params.py",
        "        if not fits:",
        "        if leaf.ndim < len(sizes):",
        ("tests/test_files*.py", "-k", "does_not_suit"),
    ),
    Mutant(
        "params_sizes_of_data_apart",
        "jaxgen/data/params.py",
        "of_data.setdefault((node, a, b), size)",
        "size",
        ("tests/test_files*.py", "-k", "does_not_suit"),
    ),
    Mutant(
        "output_mode_of_umask",
        "jaxgen/data/output.py",
        "    os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))\n",
        "",
        ("tests/test_output.py", "-k", "mode"),
    ),
    Mutant(
        "output_replaces_links",
        "jaxgen/data/output.py",
        "(self.is_regular and self.status.st_nlink == 1)",
        "self.is_regular",
        ("tests/test_output.py", "-k", "hard_links"),
    ),
    Mutant(
        "output_takes_from_the_living",
        "jaxgen/data/output.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.LOCK_UN)",
        ("tests/test_output.py", "-k", "no_temporary"),
    ),
    Mutant(
        "output_child_takes_from_its_parent",
        "jaxgen/data/output.py",
        "if process == os.getpid():",
        "if process:",
        ("tests/test_output.py", "-k", "forked"),
    ),
    Mutant(
        "output_names_alone_differ",
        "jaxgen/data/output.py",
        "os.path.samestat(target.status, os.stat(other))",
        "os.path.abspath(target.path) == os.path.abspath(other)",
        ("tests/test_output.py", "-k", "two_names"),
    ),
    Mutant(
        "tables_column_order",
        "jaxgen/data/tables/csv_files.py",
        "            values = values[:, [place[name] for name in columns]]\n        return",
        "            values = values[:, sorted(place[name] for name in columns)]\n        return",
        ("tests/test_tables*.py", "-k", "chosen_columns"),
    ),
    Mutant(
        "tables_digits",
        "jaxgen/data/tables/csv_files.py",
        'else "%.9g"',
        'else "%.8g"',
        ("tests/test_tables*.py", "-k", "numbers_and_names"),
    ),
    Mutant(
        "tables_row_lost",
        "jaxgen/data/tables/csv_files.py",
        "column[start : start + _ROWS].tolist()",
        "column[start : start + _ROWS - 1].tolist()",
        ("tests/test_tables*.py", "-k", "large_csv"),
    ),
    Mutant(
        "tables_codes_as_numbers",
        "jaxgen/data/tables/files.py",
        "(0|-?[1-9][0-9]{0,17})",
        "(-?[0-9]{1,18})",
        ("tests/test_tables*.py", "-k", "labels"),
    ),
    # what comes in
    Mutant(
        "inputs_prior_no_log",
        "jaxgen/core/inputs.py",
        "log_prior = np.log(wide / wide.max())",
        "log_prior = wide / wide.max()",
        ("tests/test_labelled*.py", "-k", "prior_is_counted"),
    ),
    Mutant(
        "inputs_labels_unsorted",
        "jaxgen/core/label_names.py",
        "found = tuple(np.unique(y).tolist())",
        "found = tuple(dict.fromkeys(y.tolist()))",
        ("tests/test_labelled*.py", "-k", "names_of_labels"),
    ),
    Mutant(
        "inputs_traced_labels_as_places",
        "jaxgen/core/label_names.py",
        "return _traced_places(y, labels, name)",
        "return y",
        ("tests/laws", "-k", "per_class-0-labels"),
    ),
    Mutant(
        "inputs_labels_as_floats",
        "jaxgen/core/inputs.py",
        "return y.astype(np.int32 if fits else dtype)",
        "return y.astype(np.int32)",
        ("tests/test_fit_units.py", "-k", "beyond_32_bits"),
    ),
    Mutant(
        "inputs_negative_weights",
        "jaxgen/core/inputs.py",
        "if (weights < 0).any() or weights.sum() <= 0:",
        "if weights.sum() <= 0:",
        ("tests/test_inputs*.py", "-k", "fit_refuses and gaussian1"),
    ),
    Mutant(
        "spec_not_cast",
        "jaxgen/core/spec.py",
        "            value = float(value)\n        except",
        "            float(value)\n        except",
        ("tests/test_spec*.py",),
    ),
    Mutant(
        "spec_names_without_module",
        "jaxgen/core/spec.py",
        'return cls.__qualname__ if is_builtin(cls) else f"{cls.__module__}.{cls.__qualname__}"',
        "return cls.__qualname__",
        ("tests/test_spec*.py",),
    ),
    Mutant(
        "compiler_cache_stays",
        "jaxgen/core/compiler.py",
        "    compilation_cache.reset_cache()  # else",
        "    # else",
        ("tests/test_compiler*.py", "-k", "named_late"),
    ),
    Mutant(
        "compiler_group_may_write",
        "jaxgen/core/compiler.py",
        "status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)",
        "status.st_mode & stat.S_IWOTH",
        ("tests/test_compiler*.py", "-k", "others_are_refused"),
    ),
    Mutant(
        "cli_seed_limit",
        "jaxgen/cli/main.py",
        "int(text) >= 2**32:",
        "int(text) > 2**32:",
        ("tests/test_cli*.py", "-k", "errors_are_one_line"),
    ),
    Mutant(
        "commands_columns_lost",
        "jaxgen/cli/commands.py",
        "    fitted.columns = columns\n",
        "",
        ("tests/test_cli*.py", "-k", "stores_model or matched_by_name"),
    ),
    Mutant(
        "commands_seed_lost",
        "jaxgen/cli/commands.py",
        "model, x, labels, key=jax.random.key(args.seed), **options)",
        "model, x, labels, key=jax.random.key(0), **options)",
        ("tests/test_cli*.py", "-k", "fields_seed"),
    ),
    Mutant(
        "commands_log_p",
        "jaxgen/cli/commands.py",
        "p = np.exp(log_p)",
        "p = log_p",
        ("tests/test_cli*.py", "-k", "test_classify"),
    ),
    Mutant(
        "commands_bits",
        "jaxgen/cli/commands.py",
        "bits_per_dim(mean.value, events.size(fitted))",
        "bits_per_dim(mean.value, 1)",
        ("tests/test_cli*.py", "-k", "score_prints"),
    ),
    # fit
    Mutant(
        "rows_padding_weighs",
        "jaxgen/training/rows.py",
        "fill(weights, 0), np.int32(n)",
        "fill(weights, weights[-1]), np.int32(n)",
        ("tests/test_fit*.py", "-k", "integer_weights or em_recovers"),
    ),
    Mutant(
        "fit_weights_dropped",
        "jaxgen/training/api.py",
        "spec.estimate(what, y, weights, **mask_argument(observed))",
        "spec.estimate(what, y, None, **mask_argument(observed))",
        ("tests/test_fit*.py", "-k", "integer_weights"),
    ),
    Mutant(
        "fit_trains_on_held_out",
        "jaxgen/training/held_out.py",
        "data.take(np.sort(shuffled[count:]))",
        "data.take(np.sort(shuffled))",
        ("tests/test_training*.py", "-k", "held_out or validation"),
    ),
    Mutant(
        "epochs_nan_params",
        "jaxgen/training/epochs.py",
        "sound &= bad_params @ bad_params == 0  # a product, as all() takes long to compile",
        "pass",
        ("tests/test_training*.py", "-k", "turn_nan"),
    ),
    Mutant(
        "epochs_rows_twice",
        "jaxgen/training/epochs.py",
        "weights = jnp.where(slots < size, train.weights[chosen], 0)",
        "weights = train.weights[chosen]",
        ("tests/test_fit*.py", "-k", "sees_every_row"),
    ),
    Mutant(
        "epochs_best_epoch",
        "jaxgen/training/epochs.py",
        "best_epoch = jnp.where(better, epoch + 1, state.best_epoch)",
        "best_epoch = jnp.where(better, epoch, state.best_epoch)",
        ("tests/test_fit*.py", "-k", "early_stopping"),
    ),
    Mutant(
        "epochs_patience",
        "jaxgen/training/epochs.py",
        "epoch + 1 - best_epoch >= fixed.patience",
        "epoch + 1 - best_epoch > fixed.patience",
        ("tests/test_fit*.py", "-k", "early_stopping"),
    ),
    Mutant(
        "em_worse_step_kept",
        "jaxgen/training/em.py",
        "jnp.where(worse, previous, here))",
        "here)",
        ("tests/test_fit*.py", "-k", "test_nan_in_em or em_stops or em_recovers"),
    ),
    Mutant(
        "freezing_frozen_learnt",
        "jaxgen/training/freezing.py",
        "for name in (*names, *always):",
        "for name in names:",
        ("tests/test_fit_compositions*.py", "-k", "frame"),
    ),
    Mutant(
        "freezing_decays_biases",
        "jaxgen/training/freezing.py",
        "for shape in self.shapes if len(shape) >= 2)",
        "for shape in self.shapes)",
        ("tests/test_training*.py", "-k", "weight_decay"),
    ),
    Mutant(
        "checkpoint_of_other_weights",
        "jaxgen/training/checkpoint.py",
        '"weights": digest(weights)',
        '"weights": digest(None)',
        ("tests/test_training*.py", "-k", "checkpoint_of_another"),
    ),
    Mutant(
        "checkpoint_disk_ends_training",
        "jaxgen/training/checkpoint.py",
        "except (OSError, MemoryError) as error:",
        "except MemoryError as error:",
        ("tests/test_training*.py", "-k", "loses_no_training"),
    ),
    Mutant(
        "optimizers_zero_signs",
        "jaxgen/training/optimizers.py",
        "return type(value).__name__, repr(value)  # by",
        "return type(value).__name__, value  # by",
        ("tests/test_fit*.py", "-k", "zero_signs"),
    ),
    Mutant(
        "by_class_unweighted_prior",
        "jaxgen/compose/labelled.py",
        "counted = np.asarray(log_frequencies(self.classes, y, weights))",
        "counted = np.asarray(log_frequencies(self.classes, y))",
        ("tests/test_labelled*.py", "-k", "frequencies"),
    ),
    Mutant(
        "fit_each_first_y",
        "jaxgen/training/each.py",
        "y[i] if own else y",
        "y[0] if own else y",
        ("tests/test_numpyro_program*.py", "-k", "side_by_side_are_those"),
    ),
    # evaluate
    Mutant(
        "calibration_bins",
        "jaxgen/metrics/reliability.py",
        "[1:-1], right=True)",
        "[1:-1])",
        ("tests/test_calibration*.py", "-k", "bins or by_hand"),
    ),
    Mutant(
        "distances_pairs",
        "jaxgen/metrics/distances.py",
        "pairs = len(a) * (len(a) - 1) if b is a else len(a) * len(b)",
        "pairs = len(a) * len(b)",
        ("tests/test_evaluate*.py", "-k", "energy"),
    ),
    Mutant(
        "distances_own_row",
        "jaxgen/metrics/distances.py",
        "np.partition(squared, k, axis=1)[:, k]",
        "np.partition(squared, k, axis=1)[:, k - 1]",
        ("tests/test_evaluate*.py", "-k", "squared_radii or neighbours_by_hand"),
    ),
    Mutant(
        "accuracy_error_biased",
        "jaxgen/metrics/accuracy.py",
        "values.std(ddof=1)",
        "values.std()",
        ("tests/test_evaluate*.py", "-k", "mean_and_error"),
    ),
    Mutant(
        "generation_ties",
        "jaxgen/metrics/generation.py",
        "1 - (below + up_to).mean() / (2 * len(t))",
        "1 - below.mean() / len(t)",
        ("tests/test_evaluate*.py", "-k", "copying"),
    ),
    Mutant(
        "measure_other_conditions",
        "jaxgen/metrics/measure.py",
        "x, y = x[chosen], None if y is None else y[chosen]",
        "x, y = x[chosen], y",
        ("tests/test_evaluate*.py", "-k", "conditional_model"),
    ),
    # models
    Mutant(
        "gaussian_blocks_sign",
        "jaxgen/models/normal/matrices.py",
        "below = -matmul(matmul(second",
        "below = matmul(matmul(second",
        ("tests/test_conditional*.py", "-k", "inverse_of_a_triangle"),
    ),
    Mutant(
        "gaussian_given_order",
        "jaxgen/models/gaussian.py",
        'return part, {"mean": mean[left], "scale_tril": triangular(root[left])}',
        'return part, {"mean": mean[left[::-1]], "scale_tril": triangular(root[left])}',
        ("tests/test_parts*.py", "-k", "gaussian_agrees"),
    ),
    Mutant(
        "mixture_padding_counts",
        "jaxgen/models/gaussian_mixture.py",
        "reshape(-1, _UNROLLED) >= count",
        "reshape(-1, _UNROLLED) > count",
        ("tests/laws", "-k", "mixture_full-0-normalisation"),
    ),
    Mutant(
        "mixture_weights_in_em",
        "jaxgen/models/gaussian_mixture.py",
        "row_shares(self._joint(params, x), weights)",
        "row_shares(self._joint(params, x), weights > 0)",
        ("tests/test_fit*.py", "-k", "integer_weights"),
    ),
    Mutant(
        "kde_padding_counts",
        "jaxgen/models/kde.py",
        "weights = jnp.pad(weights, (0, padding), constant_values=-jnp.inf)",
        "weights = jnp.pad(weights, (0, padding))",
        ("tests/test_fast_bodies*.py", "-k", "test_kernels"),
    ),
    Mutant(
        "kde_points_beyond_the_events_count",
        "jaxgen/models/kde.py",
        "_padded(log_weights, size, -np.inf)",
        "_padded(log_weights, size, 0)",
        ("tests/test_fast_bodies*.py", "-k", "beyond_the_events"),
    ),
    Mutant(
        "kde_bandwidth_of_a_subsample",
        "jaxgen/models/kde.py",
        "** (1 / (points.shape[1] + 4))",
        "** 0",
        ("tests/test_fast_bodies*.py", "-k", "subsample"),
    ),
    Mutant(
        "kde_sees_itself",
        "jaxgen/models/kde.py",
        " > 0, w - ",
        " >= 0, w - ",
        ("tests/laws", "-k", "kde2-0-learning"),
    ),
    Mutant(
        "histogram_given_axes",
        "jaxgen/models/histogram.py",
        'log_probs = params["log_probs"].transpose((*features, *rest))',
        'log_probs = params["log_probs"].transpose((*rest, *features))',
        ("tests/laws", "-k", "histogram3-0-chain_rule"),
    ),
    Mutant(
        "discrete_missing_scored",
        "jaxgen/models/discrete.py",
        "return (scores if observed is None else jnp.where(observed, scores, 0)).sum()",
        "return scores.sum()",
        ("tests/laws", "-k", "bits-0-missing"),
    ),
    Mutant(
        "box_margin_lost",
        "jaxgen/models/box.py",
        '"high": high + self.margin * (high - low),',
        '"high": high,',
        ("tests/test_fit_compositions*.py", "-k", "margin"),
    ),
    Mutant(
        "heads_log_slope",
        "jaxgen/models/heads.py",
        "jnp.exp(-log_scale), -log_scale",
        "jnp.exp(-log_scale), log_scale",
        ("tests/laws", "-k", "autoregressive3-0-bijection or autoregressive3-0-normalisation"),
    ),
    Mutant(
        "matching_trace_sign",
        "jaxgen/models/flow_matching.py",
        "+ trace + log_det",
        "- trace + log_det",
        ("tests/laws", "-k", "matching2-0-normalisation"),
    ),
    Mutant(
        "nets_mask_leaks",
        "jaxgen/networks/mlp.py",
        "np.arange(dim)[:, None] > rank,",
        "np.arange(dim)[:, None] >= rank,",
        ("tests/test_flows*.py", "-k", "masked_network"),
    ),
    Mutant(
        "nets_quick_inverse",
        "jaxgen/networks/mlp.py",
        "np.searchsorted(rank, np.arange(dim) - 1)",
        "np.searchsorted(rank, np.arange(dim))",
        ("tests/test_flows*.py", "-k", "quick_inverse"),
    ),
    Mutant(
        "nets_loop_forwards",
        "jaxgen/networks/mlp.py",
        "lax.scan(step, carry, stacked, reverse=reverse, unroll=at_once)",
        "lax.scan(step, carry, stacked, unroll=at_once)",
        ("tests/laws", "-k", "coupling3-0-bijection"),
    ),
    Mutant(
        "lanes_context_leaks",
        "jaxgen/core/lanes.py",
        "            _in_rows.reset(token)",
        "            pass",
        ("tests/laws", "-k", "coupling2-0-bijection or coupling2-0-gradients"),
    ),
    Mutant(
        "frame_positive_log_det",
        "jaxgen/networks/frame.py",
        "log_det = -(jnp.where(_up(self.positive, x), z, 0) + jnp.log(scale)).sum(0)",
        "log_det = -jnp.log(scale * jnp.ones_like(z)).sum(0)",
        ("tests/laws", "-k", "coupling_mixed-0-normalisation"),
    ),
    Mutant(
        "frame_places",
        "jaxgen/networks/frame.py",
        "return np.argsort(order)",
        "return order",
        ("tests/laws", "-k", "coupling_mixed-0-goodness_of_fit or coupling_mixed-0-bijection"),
    ),
    Mutant(
        "constraints_first_piece_for_all",
        "jaxgen/core/constraints.py",
        "(constraint(v) for constraint, v in pieces)",
        "(constraint(self.split(x)[0]) for constraint, _ in pieces)",
        ("tests/test_conditional*.py", "-k", "support_of_y"),
    ),
    # compose
    Mutant(
        "transformed_loss_sign",
        "jaxgen/compose/transformed.py",
        "noise, z, y) - log_det",
        "noise, z, y) + log_det",
        ("tests/test_fit_compositions*.py", "-k", "gradients_record"),
    ),
    Mutant(
        "transformed_em_score",
        "jaxgen/compose/transformed.py",
        "score + log_det\n\n    def _inverse_batch",
        "score\n\n    def _inverse_batch",
        ("tests/test_fit_compositions*.py", "-k", "em_records"),
    ),
    Mutant(
        "product_given_order",
        "jaxgen/compose/product.py",
        "values[np.array(which)]",
        "values[: len(which)]",
        ("tests/laws", "-k", "mixed-0-chain_rule"),
    ),
    Mutant(
        "product_em_unweighted",
        "jaxgen/compose/product.py",
        "score = jnp.average(score, weights=weights)",
        "score = jnp.average(score)",
        ("tests/test_fit_compositions*.py", "-k", "em_records"),
    ),
    Mutant(
        "labelled_repeats_weigh",
        "jaxgen/core/labels.py",
        "(weights / times)[chosen]",
        "weights[chosen]",
        ("tests/test_labelled*.py", "-k", "repeated_rows"),
    ),
    Mutant(
        "dequantized_last_level",
        "jaxgen/compose/dequantized.py",
        "(x <= high + 1)",
        "(x <= high)",
        ("tests/laws", "-k", "dequantized-0"),
    ),
    Mutant(
        "conditional_y_lost",
        "jaxgen/compose/conditional.py",
        'self.net.conditions.encode(params["frame"], y, jnp',
        'self.net.conditions.encode(params["frame"], 0 * y, jnp',
        ("tests/laws", "-k", "conditional_gaussian-0-conditions"),
    ),
    Mutant(
        "transformer_stale_key",
        "jaxgen/networks/transformer.py",
        "keys = lax.dynamic_update_index_in_dim(keys, k, i, 0)",
        "keys = lax.dynamic_update_index_in_dim(keys, q, i, 0)",
        ("tests/test_autoregressive.py",),
    ),
    Mutant(
        "transformer_cache_cut",
        "jaxgen/networks/transformer.py",
        "which = (i >= np.array(counts[:-1])).sum()",
        "which = (i > np.array(counts[:-1])).sum()",
        ("tests/test_autoregressive.py",),
    ),
    Mutant(
        "tokens_after_the_end",
        "jaxgen/models/sequence.py",
        "each = jnp.where(after_end, 0, each)",
        "each = jnp.where(ended, 0, each)",
        ("tests/test_autoregressive.py",),
    ),
    Mutant(
        "tokens_hop",
        "jaxgen/models/autoregressive.py",
        "later = log_p[..., 1:, self._window - hop :]",
        "later = log_p[..., 1:, :hop]",
        ("tests/test_autoregressive.py",),
    ),
    Mutant(
        "tokens_prior_of_a_prompt",
        "jaxgen/compose/labelled.py",
        "logits = self.log_prior(params) + jax.vmap(score)(jnp.arange(self.classes))",
        "logits = self.log_prior(params) + 0 * jax.vmap(score)(jnp.arange(self.classes))",
        ("tests/test_autoregressive.py", "tests/test_wrapper.py"),
    ),
    Mutant(
        "lanes_axis_of_results",
        "jaxgen/core/lanes.py",
        "later = axis_of_results if axis_of_results < 0 else axis_of_results + 1",
        "later = axis_of_results",
        ("tests/test_autoregressive.py",),
    ),
    Mutant(
        "importance_gumbel_sign",
        "jaxgen/compose/importance.py",
        'log_weights - jnp.log(-jnp.log(noise["race"]))',
        'log_weights + jnp.log(-jnp.log(noise["race"]))',
        ("tests/test_importance*.py", "-k", "given_agrees and between"),
    ),
    Mutant(
        "importance_event_order",
        "jaxgen/compose/importance.py",
        "order = np.argsort(np.array(self.features + self.other_features))",
        "order = np.array(self.features + self.other_features)",
        ("tests/test_importance*.py", "-k", "given_agrees and two"),
    ),
    Mutant(
        "parts_columns",
        "jaxgen/training/fitted.py",
        "tuple(self.columns[j] for j in features)",
        "tuple(self.columns[: len(features)])",
        ("tests/test_importance*.py", "-k", "name_and_place"),
    ),
    Mutant(
        "parts_total_lost",
        "jaxgen/training/parts.py",
        'params["log_total"] = jnp.asarray(found.log_mean, known.dtype)',
        'params["log_total"] = jnp.zeros((), known.dtype)',
        ("tests/test_importance*.py", "-k", "given_agrees and one"),
    ),
    Mutant(
        "parts_error_of_the_sum",
        "jaxgen/training/parts.py",
        "np.maximum(n / effective - 1, 0) / (n - 1)",
        "np.maximum(n / effective - 1, 0)",
        ("tests/test_importance*.py", "-k", "agrees"),
    ),
    # bijectors
    Mutant(
        "linear_log_det_sign",
        "jaxgen/bijectors/linear.py",
        "return z, -self._log_det(params)",
        "return z, self._log_det(params)",
        ("tests/laws", "-k", "linear-0-normalisation"),
    ),
    Mutant(
        "permute_inverse",
        "jaxgen/bijectors/linear.py",
        "x[np.argsort(self.order)]",
        "x[np.array(self.order)]",
        ("tests/laws", "-k", "permuted-0-bijection"),
    ),
    Mutant(
        "simplex_log_det",
        "jaxgen/bijectors/bounded.py",
        "-(left + log_sigmoid(t) + log_sigmoid(-t)).sum()",
        "-(log_sigmoid(t) + log_sigmoid(-t)).sum()",
        ("tests/laws", "-k", "simplex-0-normalisation"),
    ),
    Mutant(
        "affine_constant_feature",
        "jaxgen/bijectors/affine.py",
        "xp.where(x.max(0) > x.min(0), deviation, 1.0)",
        "deviation",
        ("tests/test_fit_compositions*.py", "-k", "constant"),
    ),
    Mutant(
        "spline_slope",
        "jaxgen/bijectors/spline.py",
        "share * share + 2 * slope * both",
        "share * share + slope * both",
        ("tests/test_flows*.py", "-k", "slope_is_its"),
    ),
    Mutant(
        "spline_gradient_axis",
        "jaxgen/bijectors/spline.py",
        "parts[i] - out[i] * whole[i % 2]",
        "parts[i] - out[i] * whole[i // 2]",
        ("tests/laws", "-k", "coupling2-0-gradients or coupling2-1-gradients"),
    ),
    Mutant(
        "spline_turn_sign",
        "jaxgen/bijectors/spline.py",
        "wrap(x - u[-1])",
        "wrap(x + u[-1])",
        ("tests/laws", "-k", "coupling_globe-0-bijection"),
    ),
    # datasets
    Mutant(
        "land_alias",
        "jaxgen/data/datasets/land_model.py",
        "(choose >= keep[column])",
        "(choose < keep[column])",
        ("tests/test_datasets*.py", "-k", "samples_follow"),
    ),
    Mutant(
        "land_geometry_areas",
        "jaxgen/data/datasets/land_geometry.py",
        "(latitude, sine, log_part - sine)",
        "(latitude, sine, log_part + sine)",
        ("tests/test_datasets*.py", "-k", "integrates_to_one and 110m"),
    ),
    Mutant(
        "land_last_edge",
        "jaxgen/data/datasets/land_model.py",
        "crossed = (slot < stop)",
        "crossed = (slot <= stop)",
        ("tests/test_datasets*.py", "-k", "test_places or integrates_to_one"),
    ),
    Mutant(
        "toys_moons_swapped",
        "jaxgen/data/datasets/toys.py",
        "jnp.where(turn < 0.5,",
        "jnp.where(turn > 0.5,",
        ("tests/test_toys*.py", "-k", "TwoMoons or moons"),
    ),
    Mutant(
        "toys_turn_back",
        "jaxgen/data/datasets/toys.py",
        '_turn(_ARMS.push(params, noise), -params["rate"])',
        '_turn(_ARMS.push(params, noise), params["rate"])',
        ("tests/test_toys*.py", "-k", "Pinwheel"),
    ),
    # check
    Mutant(
        "check_keys",
        "jaxgen/laws/contract.py",
        "with jax.debug_key_reuse(True):",
        "with jax.debug_key_reuse(False):",
        ("tests/laws/test_planted*.py", "-k", "key"),
    ),
    Mutant(
        "check_bijector_one_way",
        "jaxgen/laws/calculus.py",
        '(("forward", of_forward, 1), ("inverse", of_inverse, -1))',
        '(("inverse", of_inverse, -1),)',
        ("tests/laws/test_planted*.py", "-k", "forward"),
    ),
    Mutant(
        "check_gradient_limit",
        "jaxgen/laws/calculus.py",
        "                1e-3,\n                1e-6,\n",
        "                1e-1,\n                1e-6,\n",
        ("tests/laws/test_planted*.py", "-k", "gradient"),
    ),
    Mutant(
        "check_integral_one_sided",
        "jaxgen/laws/density.py",
        "if abs(total - 1) >= 1e-3:\n            require(False",
        "if total - 1 >= 1e-3:\n            require(False",
        ("tests/laws/test_planted*.py", "-k", "normaliser or determinant"),
    ),
    Mutant(
        "check_chi_square",
        "jaxgen/laws/density.py",
        "((observed - expected) ** 2 / np.maximum(expected, 1.0)).sum()",
        "((observed - expected) / np.maximum(expected, 1.0)).sum()",
        ("tests/laws/test_planted*.py", "-k", "samples"),
    ),
    Mutant(
        "check_missing_all",
        "jaxgen/laws/parts.py",
        "kept = ((completed == x) | ~observed).reshape(len(x), -1).all(1)",
        "kept = ((completed == x) | ~observed).reshape(len(x), -1).any(1)",
        ("tests/laws/test_planted*.py", "-k", "observed"),
    ),
    # numpyro
    Mutant(
        "rows_never_compared",
        "jaxgen/numpyro/data_check.py",
        "    differs = ~(same | close)\n",
        "    differs = ~(same | close) & False\n",
        ("tests/test_numpyro_rows.py", "-k", "depend_on_others"),
    ),
    Mutant(
        "locals_of_other_rows",
        "jaxgen/numpyro/data_check.py",
        '{n: jnp.moveaxis(run[n]["value"], axis, 0) for n',
        '{n: jnp.moveaxis(run[n]["value"], axis, 0)[::-1] for n',
        ("tests/test_numpyro_rows.py", "-k", "depend_on_others or values_that_each_row"),
    ),
    Mutant(
        "values_beyond_a_row",
        "jaxgen/numpyro/row_density.py",
        'if site["name"] in program.sites.varying:',
        'if site["name"] in ():',
        ("tests/test_numpyro_rows.py", "-k", "values_that"),
    ),
    Mutant(
        "negative_indices_wrapped",
        "jaxgen/numpyro/indices.py",
        "return all(source is index for source in sources)",
        "return False",
        ("tests/test_numpyro_rows.py", "-k", "index_out_of_range"),
    ),
    Mutant(
        "program_without_x",
        "jaxgen/numpyro/program_spec.py",
        "return {} if parameter is None else {parameter: value}",
        "return {}",
        ("tests/test_numpyro_rows.py", "-k", "only_with_x"),
    ),
    Mutant(
        "globals_unread",
        "jaxgen/numpyro/closure.py",
        'if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):',
        'if step.opname in ("LOAD_NAME",):',
        ("tests/test_numpyro_rows.py", "-k", "changed_global or contents"),
    ),
    Mutant(
        "file_takes_any_sites",
        "jaxgen/numpyro/recognition.py",
        "    if found != program.described:\n",
        "    if False:\n",
        ("tests/test_numpyro_rows.py", "-k", "other_sites"),
    ),
    Mutant(
        "file_takes_any_data",
        "jaxgen/numpyro/recognition.py",
        "        if not what:\n",
        "        if True:\n",
        ("tests/test_numpyro_rows.py", "-k", "other_data"),
    ),
    Mutant(
        "unread_latents_sampled",
        "jaxgen/numpyro/sites/inspection.py",
        "    unread = _unread(runs, structure, continuous)\n",
        "    unread = ()\n",
        ("tests/test_numpyro_rows.py", "-k", "left_out"),
    ),
    Mutant(
        "params_always_converge",
        "jaxgen/numpyro/diagnosis.py",
        "    if not gain > max(_RISE[0], _RISE[1] * size):\n",
        "    if True:\n",
        ("tests/test_numpyro_program_fits.py", "-k", "has_not_converged"),
    ),
    Mutant(
        "padding_is_scored",
        "jaxgen/numpyro/likelihood.py",
        "return jnp.where(mask, log_prob_within(fn.base_dist, value), 0)",
        "return log_prob_within(fn.base_dist, value)",
        ("tests/test_numpyro_rows.py", "-k", "masked"),
    ),
    Mutant(
        "counts_clamped",
        "jaxgen/numpyro/program_spec.py",
        "return self.sites.bounded or not self.large_counts",
        "return True",
        ("tests/test_numpyro_rows.py", "-k", "32_bits"),
    ),
    Mutant(
        "program_mean_of_draws",
        "jaxgen/numpyro/density.py",
        "logsumexp(log_prob_of_draws(program, params, x, y)) - np.log(program.draws)",
        "logsumexp(log_prob_of_draws(program, params, x, y))",
        ("tests/test_numpyro_program*.py", "-k", "scores_are_those"),
    ),
    Mutant(
        "program_prior_weighs",
        "jaxgen/numpyro/program.py",
        'cost / noise["events"]',
        "cost",
        ("tests/test_numpyro_program*.py", "-k", "prior_weighs_less"),
    ),
    Mutant(
        "program_discrete_prior",
        "jaxgen/numpyro/row_density.py",
        "return logsumexp(priors), logsumexp(priors + scores)",
        "return logsumexp(priors), logsumexp(scores)",
        ("tests/test_numpyro_program*.py", "-k", "discrete_latents_are_summed"),
    ),
    Mutant(
        "posterior_jacobian",
        "jaxgen/numpyro/posteriors/point.py",
        "-log_p - log_det if self.jacobian else -log_p",
        "-log_p + log_det if self.jacobian else -log_p",
        ("tests/test_numpyro_program*.py", "-k", "map_with"),
    ),
    Mutant(
        "nuts_warmup_kept",
        "jaxgen/numpyro/posteriors/nuts.py",
        "[:, :, self.warmup : total]",
        "[:, :, : self.draws]",
        ("tests/test_numpyro_program*.py", "-k", "warmup"),
    ),
    Mutant(
        "sbc_degrees",
        "jaxgen/numpyro/calibration.py",
        "gammaincc((bins - 1) / 2, chi2 / 2)",
        "gammaincc(bins / 2, chi2 / 2)",
        ("tests/test_numpyro_program*.py", "-k", "fits_are_calibrated or broken_jacobian"),
    ),
    Mutant(
        "distil_judged_by_old",
        "jaxgen/numpyro/distillation.py",
        "fitted = fit(student, x[:count], train_y, key=fit_key, **settings)",
        "fitted = fit(student, x[count:], new_y, key=fit_key, **settings)",
        ("tests/test_numpyro_program*.py", "-k", "distilled"),
    ),
    Mutant(
        "distribution_frozen",
        "jaxgen/numpyro/distribution.py",
        "return lax.stop_gradient(leaf) if is_frozen else leaf",
        "return leaf",
        ("tests/test_numpyro_distribution*.py", "-k", "frozen_params"),
    ),
    Mutant(
        "distribution_groups_axis",
        "jaxgen/numpyro/distribution.py",
        "return jnp.moveaxis(out.reshape(*groups, *rest, *out.shape[2:]), front, axes)",
        "return out.reshape(*groups, *rest, *out.shape[2:])",
        ("tests/test_numpyro_distribution*.py", "-k", "vmap_over"),
    ),
    Mutant(
        "constraints_log_det",
        "jaxgen/core/constraints.py",
        "return _joined(dets, jnp.shape(x)[:-1]).sum(-1)",
        "return _joined(dets[1:], jnp.shape(x)[:-1]).sum(-1)",
        ("tests/test_numpyro_distribution*.py", "-k", "reals_are_mapped"),
    ),
    Mutant(
        "queries_axes",
        "jaxgen/numpyro/queries.py",
        "{name: jnp.swapaxes(v, 0, 1) for name, v in drawn.items()}",
        "dict(drawn)",
        ("tests/test_numpyro_program*.py", "-k", "what_follows"),
    ),
    # images
    Mutant(
        "pixels_outside",
        "jaxgen/models/pixel_autoregressive.py",
        "code = jnp.where(inside, code, 0)",
        "code = jnp.where(True, code, 0)",
        ("tests/test_pixel_autoregressive.py", "-k", "sum_to_one"),
    ),
    Mutant(
        "pixels_context",
        "jaxgen/models/pixel_autoregressive.py",
        "return x if context is None else x + context[..., None, :]",
        "return x",
        ("tests/test_pixel_autoregressive.py", "-k", "label"),
    ),
    Mutant(
        "training_tiles_noise",
        "jaxgen/training/epochs.py",
        "(jnp.arange(count, dtype=jnp.uint32) * size, tiles)",
        "(jnp.arange(count, dtype=jnp.uint32) * 0, tiles)",
        ("tests/test_training.py", "-k", "tiles"),
    ),
    Mutant(
        "vae_importance_mean",
        "jaxgen/models/vae.py",
        "logsumexp(self._log_weights(params, x, y)) - math.log(self.samples)",
        "logsumexp(self._log_weights(params, x, y))",
        ("tests/test_vae.py",),
    ),
    Mutant(
        "diffusion_trace",
        "jaxgen/models/diffusion.py",
        "traces.sum(0) if exact else traces.mean(0)",
        "traces.mean(0)",
        ("tests/test_diffusion.py", "-k", "density"),
    ),
    Mutant(
        "convolution_padding",
        "jaxgen/networks/convolutional.py",
        "patches[:, i : i + height].reshape",
        "patches[:, 2 - i : 2 - i + height].reshape",
        ("tests/test_convolutional.py", "-k", "product"),
    ),
    # bulk generation
    Mutant(
        "bulk_written_in_place",
        "jaxgen/data/bulk/block_files.py",
        "with write_atomically(path, remove_stale=False, cached=False, keep=False) as file:",
        'with open(path, "wb") as file:',
        ("tests/test_bulk.py", "-k", "stops_at_a_point or full_disk"),
    ),
    Mutant(
        "bulk_size_not_compared",
        "jaxgen/data/bulk/manifest.py",
        "if all(sizes.get(file.name) == file.size for file in block.files):",
        "if True:",
        ("tests/test_bulk.py", "-k", "cut_short"),
    ),
    Mutant(
        "bulk_record_lost",
        "jaxgen/data/bulk/progress.py",
        "self._blocks = {k: block for k, block in blocks.items() if first <= k < stop}",
        "self._blocks = {}",
        ("tests/test_bulk.py", "-k", "finished_blocks_are or stops_at_a_point"),
    ),
    Mutant(
        "bulk_no_lock",
        "jaxgen/data/bulk/locks.py",
        "if any(first < other_stop and other < stop for other, other_stop in held):",
        "if False:",
        ("tests/test_bulk.py", "-k", "two_writers"),
    ),
    Mutant(
        "bulk_first_row",
        "jaxgen/data/bulk/drawing.py",
        "request = verbs.to_sample(model, params, key, count, _y_of(task, number), first)",
        "request = verbs.to_sample(model, params, key, count, _y_of(task, number), number)",
        ("tests/test_bulk.py", "-k", "rows_are_those"),
    ),
    Mutant(
        "bulk_y_of_task",
        "jaxgen/data/bulk/drawing.py",
        "y=np.asarray(self.y[rows]), first_row=first",
        "y=np.asarray(self.y[rows]), first_row=0",
        ("tests/test_bulk.py", "-k", "reach_the_tasks"),
    ),
    Mutant(
        "bulk_late_task",
        "jaxgen/data/bulk/drawing.py",
        "                check()\n",
        "",
        ("tests/test_bulk.py", "-k", "late_task"),
    ),
    Mutant(
        "bulk_manifest_replaced",
        "jaxgen/data/bulk/manifest.py",
        "_content(job, [], False), replace=False)",
        "_content(job, [], False))",
        ("tests/test_bulk.py", "-k", "start_at_once or two_writers or shards"),
    ),
    Mutant(
        "devices_no_sum_of_gradients",
        "jaxgen/training/epochs.py",
        "value, grads = _total(split, _value_and_gradient(program, loss, live, part))",
        "value, grads = _value_and_gradient(program, loss, live, part)",
        ("tests/test_training_devices.py",),
    ),
    Mutant(
        "devices_same_noise",
        "jaxgen/training/epochs.py",
        "number = number if first is None else first + number",
        "number = number",
        ("tests/test_training_devices.py",),
    ),
    Mutant(
        "devices_em_not_summed",
        "jaxgen/core/shards.py",
        "return lax.psum(sums(rows, params), split[0])",
        "return sums(rows, params)",
        ("tests/test_training_devices.py",),
    ),
)


# of exit statuses of pytest, None after a timeout; all others are those of tests that failed
VERDICTS = {
    None: "HANGS",
    0: "NOT CAUGHT",
    2: "caught at collection",
    4: "NO TESTS",
    5: "NO TESTS",
}
_running: set[subprocess.Popen] = set()


def problems(root: Path = ROOT) -> list[str]:
    """What is wrong with the table itself: texts that do not occur once, names used twice."""
    names = [mutant.name for mutant in MUTANTS]
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    found = [f"{name}: the name is used twice" for name in twice]
    for mutant in MUTANTS:
        path = root / mutant.file
        count = path.read_text().count(mutant.old) if path.is_file() else 0
        if count != 1:
            found.append(f"{mutant.name}: the old text occurs {count} times in {mutant.file}")
        if mutant.old == mutant.new:
            found.append(f"{mutant.name}: it changes nothing")
        if not _selection(mutant.tests, root):
            found.append(f"{mutant.name}: no file is selected by {mutant.tests}")
    return found


def verdict_of(mutant: Mutant, copy: Path, timeout: float = TIMEOUT) -> Verdict:
    """Plant one mutant in a copy of the repository, run its tests and take it out again."""
    path, began = copy / mutant.file, time.monotonic()
    source = path.read_text()
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        status, output = _pytest(copy, ["-x", *_selection(mutant.tests, copy)], timeout)
    finally:
        path.write_text(source)
    failed = _failed(output)
    verdict = VERDICTS.get(status, "caught")
    test = failed[0] if failed else "" if verdict != "caught" else f"(exit status {status})"
    seconds = round(time.monotonic() - began, 1)
    return Verdict(mutant.name, mutant.file, verdict, test, seconds)


def confirm(verdicts: list[Verdict], copy: Path) -> list[Verdict]:
    """The verdicts, after the tests that failed have run without a mutant."""
    tests = sorted({v.test for v in verdicts if v.verdict == "caught" and "::" in v.test})
    always = set(_failed(_pytest(copy, tests, None)[1])) if tests else set()
    return [v._replace(verdict="FAILS ANYWAY") if v.test in always else v for v in verdicts]


def copy_of(root: Path, folder: Path) -> Path:
    """A copy of the repository, of which Python imports the library when it runs there."""
    copy = Path(shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*LEFT_OUT)))
    asked = [sys.executable, "-c", "import jaxgen; print(jaxgen.__file__)"]
    found = subprocess.run(
        asked, cwd=copy, env=_environment(copy), capture_output=True, text=True, check=True
    )
    if not Path(found.stdout.strip()).resolve().is_relative_to(copy.resolve()):
        raise RuntimeError(f"Python imports {found.stdout.strip()}, not the copy in {copy}")
    return copy


def _selection(tests: tuple[str, ...], root: Path) -> list[str]:
    """Arguments of pytest with globs of files expanded; none where a glob finds nothing."""
    arguments: list[str] = []
    for argument in tests:
        if argument.startswith("tests/"):
            files = sorted(str(path.relative_to(root)) for path in root.glob(argument))
            if not files:
                return []
            arguments += files
        else:
            arguments.append(argument)
    return arguments


def _pytest(copy: Path, arguments: list[str], timeout: float | None) -> tuple[int | None, str]:
    """The exit status, None after a timeout, and the output of tests that are not slow."""
    options = ["-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-n", "0", "-m", "not slow"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=copy, env=_environment(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    _running.add(process)
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    finally:
        _running.discard(process)


def _environment(copy: Path) -> dict[str, str]:
    # without bytecode, whose age is compared in whole seconds
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def _failed(output: str) -> list[str]:
    """Tests that failed and files that could not be collected, of pytest's short summary."""
    line = r"^(?:FAILED|ERROR) (tests/\S+?(?:\[.*?\])?)(?: - .*)?$"
    found = re.findall(line, output, re.MULTILINE)
    return list(dict.fromkeys(found))


def _keep(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts to a file, in which those of other mutants stay."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    known |= {v.mutant: v._asdict() for v in verdicts}
    path.write_text(json.dumps(known, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Judge mutants and print a table; the status is 0 where all were caught."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants; all by default")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository to copy")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the verdicts there")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for a mutant")
    parser.add_argument("--check", action="store_true", help="look at the table alone")
    args = parser.parse_args(argv)
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    found = problems(args.root)
    found += [f"{name}: no such mutant" for name in args.names if name not in by_name]
    if found or args.check:
        print(*found, f"{len(MUTANTS)} mutants, {len(found)} problems", sep="\n")
        return bool(found)
    chosen = [by_name[name] for name in args.names or by_name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(args.jobs):
            copies.put(copy_of(args.root, Path(folder) / str(i)))

        def one(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                return verdict_of(mutant, copy, args.timeout)
            finally:
                copies.put(copy)

        verdicts: list[Verdict] = []
        with ThreadPoolExecutor(args.jobs) as threads:
            try:
                for verdict in threads.map(one, chosen):
                    verdicts.append(verdict)
                    print(_line(verdict), flush=True)
                    if args.json is not None:
                        _keep(args.json, [verdict])
            except BaseException:  # an interrupt leaves no tests running
                threads.shutdown(wait=False, cancel_futures=True)
                for process in list(_running):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        verdicts = confirm(verdicts, copies.get())
    if args.json is not None:
        _keep(args.json, verdicts)
    print("\n" + COLUMNS.format("mutant", "file", "verdict", "s", "first test that failed"))
    print(*map(_line, verdicts), sep="\n")
    caught = sum(v.verdict.startswith("caught") for v in verdicts)
    print(f"{caught} of {len(verdicts)} caught, in {sum(v.seconds for v in verdicts):.0f} s")
    return caught < len(verdicts)


def _line(verdict: Verdict) -> str:
    return COLUMNS.format(
        verdict.mutant, verdict.file, verdict.verdict, f"{verdict.seconds:.0f}", verdict.test
    )


if __name__ == "__main__":
    sys.exit(main())
