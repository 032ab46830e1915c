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
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen
from jaxgen import compose, metrics, models, networks
from jaxgen.training import Adam

SHOWN, SIDE = 6, 29  # draws of each label in a grid, and pixels from one to the next


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
        {"epochs": 12, "batch_size": 32, "optimizer": Adam(3e-3)},
    ),
    "diffusion": Entry(
        models.Diffusion(levels=2, network=networks.UNet(32)),
        {"epochs": 20, "batch_size": 64, "optimizer": Adam(1e-3)},
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
    few = train.images[:: len(train.images) // len(test.images)]
    known = {
        "test": classifier.features(test.images),
        "floor": metrics.frechet_distance(
            classifier.features(few), classifier.features(test.images)
        ),
        "accuracy": classifier.accuracy(test.images, test.labels),
    }
    rows = []
    for name in arguments.names or MODELS:
        entry = MODELS[name]
        settings = entry.settings | ({"epochs": arguments.epochs} if arguments.epochs else {})
        model = compose.Labelled(entry.model)
        start = time.perf_counter()
        fitted = jaxgen.fit(
            model, train.images > 0, train.labels, key=jax.random.key(0), **settings
        )
        fit = {"seconds_of_fit": time.perf_counter() - start, "epochs": settings["epochs"]}
        if fitted.model.traits.density == "exact":
            x, y = test.images > 0, test.labels
            fit["bits"] = -float(np.asarray(fitted.log_prob(x)).mean()) / np.log(2)
            by_bayes = metrics.calibration(fitted.classify(x), y, labels=fitted.labels)
            fit["accuracy_by_bayes"] = by_bayes.accuracy
        for how, fields in entry.draws.items():
            row, draws = _row(fitted.replace(**fields), classifier, known, test.labels)
            rows.append({"name": f"{name} {how}".strip(), **row, **fit})
            print(json.dumps(rows[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
            if arguments.grids:
                _write_grid(arguments.grids, rows[-1]["name"], draws, test)


def _row(fitted, classifier, known, labels):
    draw = lambda: np.asarray(fitted.sample(jax.random.key(2), len(labels), labels))  # noqa: E731
    draws = draw()
    start = time.perf_counter()
    draw()
    seconds = time.perf_counter() - start
    accuracy = classifier.accuracy(draws, labels)
    distance = metrics.frechet_distance(classifier.features(draws), known["test"])
    return {
        "accuracy": accuracy, "share": accuracy / known["accuracy"],
        "accuracy_of_test": known["accuracy"], "frechet": distance, "floor": known["floor"],
        "draws_per_second": len(draws) / seconds,
    }, draws  # fmt: skip


def _write_grid(folder, name, draws, test):
    folder.mkdir(parents=True, exist_ok=True)
    for title, images in {"people": test.images, name: draws}.items():
        shown = np.concatenate([images[test.labels == name][:SHOWN] for name in test.names])
        sheet = jaxgen.data.grid(np.where(shown > 0, 0, 255).astype(np.uint8), columns=SHOWN)
        jaxgen.data.write_images(sheet[None], folder / f"{title}.png")
    files = [file for file in folder.glob("*.png") if file.stem not in ("people", "all")]
    files = [folder / "people.png", *sorted(files, key=lambda file: file.stem)]
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
