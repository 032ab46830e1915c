"""EM on tables in raw units, and scikit-learn on the same tables with standardised columns.

    python -m benchmarks.raw_tables FOLDER [--components 4 16 64] [--restarts 2] [--json FILE]

Reads the numeric columns of each .csv and .csv.gz with at least 1,000 complete rows. Both sides
have the same number of restarts and the same relative floor (``jitter``, ``reg_covar``); scores are
mean log-likelihoods of the rows, in nats and in the units of the table. Needs pandas and
scikit-learn.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import jaxgen

FLOOR, ROWS = 1e-6, 1000


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.raw_tables", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--components", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tables = {path.name.split(".")[0]: _numbers(path) for path in arguments.folder.glob("*.csv*")}
    tables = {name: x for name, x in sorted(tables.items()) if len(x) >= ROWS}
    pairs = [(name, count) for count in arguments.components for name in tables]
    print(f"{'table':<22} {'n x d':<12} {'K':>3} {'jaxgen':>10} {'sklearn':>10} {'s':>6} {'s':>6}")
    rows = []
    for name, count in tqdm(pairs, disable=None, leave=False):
        x = tables[name]
        ours, seconds = _ours(x, count, arguments.restarts)
        peer, peer_seconds = _scikit(x, count, arguments.restarts)
        row = {"table": name, "shape": x.shape, "components": count, "jaxgen": ours}
        rows.append({**row, "seconds": seconds, "sklearn": peer, "sklearn_seconds": peer_seconds})
        shape = f"{len(x)} x {x.shape[1]}"
        scores = f"{count:>3} {ours:>10.4f} {peer:>10.4f} {seconds:>6.1f} {peer_seconds:>6.1f}"
        print(f"{name:<22} {shape:<12} {scores}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _numbers(path):
    """The numeric columns that are not constant, (n, d), in rows without missing values."""
    import pandas

    table = pandas.read_csv(path, na_values=["?"]).select_dtypes("number").dropna()
    return table.loc[:, table.nunique() > 1].to_numpy(float)


def _ours(x, count, restarts):
    began = time.perf_counter()
    model = jaxgen.models.GaussianMixture(x.shape[1], count, jitter=FLOOR)
    fitted = jaxgen.fit(model, x, key=jax.random.key(0), restarts=restarts)
    return float(np.asarray(fitted.log_prob(x), float).mean()), time.perf_counter() - began


def _scikit(x, count, restarts):
    from sklearn.mixture import GaussianMixture

    warnings.filterwarnings("ignore", module="sklearn")  # of a stop before convergence
    began, scale = time.perf_counter(), x.std(0)
    z = (x - x.mean(0)) / scale
    mixture = GaussianMixture(count, n_init=restarts, reg_covar=FLOOR, random_state=0).fit(z)
    return float(mixture.score(z) - np.log(scale).sum()), time.perf_counter() - began


if __name__ == "__main__":
    main()
