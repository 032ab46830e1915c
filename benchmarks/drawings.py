"""How well models of images draw by label: 8,000 drawings of Quick, Draw!, of eight kinds.

    python -m benchmarks.drawings [MODEL ...] [--epochs N] [--json FILE] [--grids FOLDER]

Models learn 6,400 drawings with their labels. Of each of the 1,600 others a classifier that is
fitted to the same 6,400 finds the label, and so it does of 1,600 draws with the same labels.
``share`` is the accuracy on draws as a share of that on drawings. ``frechet`` is the Frechet
distance of the features of draws from those of the 1,600 drawings, beside ``floor``, that of 1,600
drawings to learn from. Of ``diffusion`` there are rows by solver, number of steps and guidance.
FOLDER gets a grid of draws for each row, and ``all.png`` of all grids in it.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen
from benchmarks import model_rows
from jaxgen import compose, metrics, models, networks
from jaxgen.training import Adam

SHOWN, SIDE = 6, 29  # draws of each label in a grid, and pixels from one to the next
TIMED = 256  # draws whose time is measured


class Entry(NamedTuple):
    """A model of drawings given their label, arguments of its fit, and what to draw with."""

    model: Any
    settings: dict[str, Any]
    draws: dict[str, dict[str, Any]] = {"": {}}  # noqa: RUF012


MODELS = {
    "vae": Entry(
        models.VAE(levels=2, encoder=networks.MLP(width=512), decoder=networks.MLP(width=512)),
        {"epochs": 40, "batch_size": 128, "optimizer": Adam(1e-3)},
    ),
    "pixels": Entry(
        models.PixelAutoregressive(levels=2, network=networks.Transformer(64, layers=4)),
        {"epochs": 10, "batch_size": 32, "optimizer": Adam(3e-3)},
    ),
    "diffusion": Entry(
        models.Diffusion(levels=2, network=networks.UNet(16)),
        {"epochs": 30, "batch_size": 64, "optimizer": Adam(2e-3)},
        {
            "euler 64": {"solver": "euler", "steps": 64},
            "euler 8": {"solver": "euler", "steps": 8},
            "heun 8": {"solver": "heun", "steps": 8},
            "euler 8, guidance 2": {"solver": "euler", "steps": 8, "guidance": 2.0},
        },
    ),
}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drawings", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MODELS], metavar="MODEL")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--grids", type=Path, help="folder for a grid of the draws of each row")
    arguments = parser.parse_args()
    train, test = jaxgen.datasets.drawings().split()
    classifier = metrics.fit_image_classifier(train.images, train.labels, key=jax.random.key(1))
    few = classifier.features(train.images[:: len(train.images) // len(test.images)])
    features = classifier.features(test.images)
    known = {
        "accuracy_of_test": classifier.accuracy(test.images, test.labels),
        "floor": metrics.frechet_distance(few, features),
    }

    def rows(name):
        fitted, fit = _fit(name, arguments.epochs, train, test)
        for how, fields in MODELS[name].draws.items():
            row = {"name": f"{name} {how}".strip(), **fit, **known}
            draws, row["draws_per_second"] = _draws(fitted.replace(**fields), test.labels)
            row["accuracy"] = classifier.accuracy(draws, test.labels)
            row["share"] = row["accuracy"] / row["accuracy_of_test"]
            row["frechet"] = metrics.frechet_distance(classifier.features(draws), features)
            if arguments.grids:
                _write_grid(arguments.grids, row["name"], draws, test)
            yield row

    names = arguments.names or MODELS
    model_rows.write((row for name in names for row in rows(name)), arguments.json)


def _fit(name, epochs, train, test):
    """The fitted model, and what is measured of the fit."""
    entry, start = MODELS[name], time.perf_counter()
    settings = entry.settings | ({"epochs": epochs} if epochs else {})
    model = compose.Labelled(entry.model)
    fitted = jaxgen.fit(model, train.images > 0, train.labels, key=jax.random.key(0), **settings)
    found = {"seconds_of_fit": time.perf_counter() - start, "epochs": settings["epochs"]}
    if fitted.model.traits.density == "exact":
        x = test.images > 0
        found["bits"] = -float(np.asarray(fitted.log_prob(x)).mean()) / np.log(2)
        by_bayes = metrics.calibration(fitted.classify(x), test.labels, labels=fitted.labels)
        found["accuracy_by_bayes"] = by_bayes.accuracy
    return fitted, found


def _draws(fitted, labels):
    """A draw for each label, and how many a second there are once all is compiled."""
    draws = np.asarray(fitted.sample(jax.random.key(2), len(labels), labels))

    def some():
        return jax.block_until_ready(fitted.sample(jax.random.key(3), TIMED, labels[:TIMED]))

    some()
    start = time.perf_counter()
    some()
    return draws, TIMED / (time.perf_counter() - start)


def _write_grid(folder, title, draws, test):
    folder.mkdir(parents=True, exist_ok=True)
    for file, images in {"people": test.images, title: draws}.items():
        shown = np.concatenate([images[test.labels == name][:SHOWN] for name in test.names])
        sheet = jaxgen.data.grid(np.where(shown > 0, 0, 255).astype(np.uint8), columns=SHOWN)
        jaxgen.data.write_images(sheet[None], folder / f"{file}.png")
    files = [file for file in folder.glob("*.png") if file.stem not in ("people", "all")]
    files = [folder / "people.png", *sorted(files)]
    figure = Figure((1.9 * len(files), 3), layout="constrained")
    for file, ax in zip(files, figure.subplots(1, len(files), squeeze=False)[0], strict=True):
        ax.imshow(jaxgen.data.read_images(file).images[0], cmap="gray")
        ax.set_title(file.stem, fontsize=9)
        ax.set(xticks=[], yticks=[])
        if file is files[0]:
            ax.set_yticks(SIDE * (np.arange(len(test.names)) + 0.5), test.names, fontsize=8)
    figure.savefig(folder / "all.png", dpi=110)


if __name__ == "__main__":
    main()
