"""How well models predict a text: n-grams of orders 2 to 8, and a transformer of nanoGPT's size.

    python -m benchmarks.text FILE [--test FILE | --names ORDER] [--epochs 1] [--width 128] ...

FILE is one stream of characters, whose last tenth tests, or all of ``--test``. With ``--names`` its
lines are texts, and the last 1,000 of the permutation in ORDER (.npy) test. Scores are nats for
each character; the ends of lines count as characters. By default the transformer has the settings
of nanoGPT for a CPU: about 2,000 steps of 12 windows of 64 characters.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

import jaxgen
from jaxgen import models, networks
from jaxgen.data import tokenize
from jaxgen.metrics import stream_log_probs, text_report
from jaxgen.training import Adam


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--test", type=Path, help="text to test on; by default the last tenth")
    parser.add_argument("--names", type=Path, help="lines are texts: their permutation, an .npy")
    for name, value in {"width": 128, "layers": 4, "heads": 4, "window": 64, "batch": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--step", type=int, default=42, help="distance of windows for training")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    text = arguments.file.read_text()
    if arguments.names is not None:
        names(text.split(), np.load(arguments.names), arguments)
        return
    cut = len(text) if arguments.test else len(text) * 9 // 10
    train, test = text[:cut], arguments.test.read_text() if arguments.test else text[cut:]
    vocabulary = tokenize(text).vocabulary
    whole = tokenize(train, vocabulary=vocabulary, length=len(train))

    def score(fitted):
        return -stream_log_probs(fitted, test).mean()

    n_grams(whole, score)
    windows = {"vocabulary": vocabulary, "length": arguments.window + 1}
    events = tokenize(train, **windows, step=arguments.step)
    fitted = transformer(events, arguments)
    ids = tokenize(test, vocabulary=vocabulary, length=len(test)).tokens[0]
    starts = np.arange(0, len(ids) - arguments.window, arguments.window)[:, None]
    each = fitted.token_log_probs(ids[starts + np.arange(arguments.window + 1)])
    # as nanoGPT measures it: each character but the first of a window, given those before it
    print(f"nats in windows   {-np.asarray(each)[:, 1:].mean():.4f}")
    print(f"nats of stream    {score(fitted):.4f}")
    print(text_report(fitted, test, train=train, n=100))


def names(lines, order, arguments):
    train, test = ([lines[i] for i in rows] for rows in (order[:-1000], order[-1000:]))
    letters = sum(len(name) + 1 for name in test)

    def score(fitted):
        return -float(np.asarray(fitted.log_prob(test), np.float64).sum()) / letters

    n_grams(tokenize(train), score)
    fitted = transformer(tokenize(train), arguments)
    print(f"nats of letters   {score(fitted):.4f}")


def n_grams(events, score):
    for modified in (False, True):
        orders = [models.NGram(order=n, modified=modified) for n in range(2, 9)]
        scores = [score(jaxgen.fit(model, events, key=jax.random.key(0))) for model in orders]
        what = "modified Kneser-Ney" if modified else "one discount an order"
        print(f"orders 2 to 8: {' '.join(f'{value:.4f}' for value in scores)}  {what}")


def transformer(events, arguments):
    network = networks.Transformer(arguments.width, arguments.heads, arguments.layers)
    began = time.perf_counter()
    fitted = jaxgen.fit(
        models.Autoregressive(network=network),
        events,
        key=jax.random.key(0),
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        validation=0.02,
        optimizer=Adam(arguments.rate, weight_decay=0.1, clip=1.0),
    )
    seconds = time.perf_counter() - began
    print(f"{network}: {fitted.history['steps']:,} steps in {seconds:.0f} s, compilation included")
    return fitted


if __name__ == "__main__":
    main()
