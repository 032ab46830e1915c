"""Model files of earlier versions load, and give the same scores and samples."""

import pathlib

import jax
import numpy as np
import pytest

import jaxgen

GOLDEN = pathlib.Path(__file__).parent / "golden"
KEY = jax.random.key(1)
# {file: events, their conditions and scores, the condition of the samples, and the samples}
SCORES = {
    "labelled_mixture-0.3.0": (
        [
            [17.57302210933933, 0.998678951367087],
            [69.0422650443282, 1.0010490011715305],
            [-48.566937316111094, 1.003615950549095],
        ],
        ["apple", "pear", "plum"],
        [-1.5687379837036133, -1.7849427461624146, -1.8527098894119263],
        "pear",
        [
            [238.5507049560547, 0.9939484000205994],
            [-114.2889633178711, 0.9864863157272339],
            [-18.020221710205078, 1.0041611194610596],
        ],
    ),
    "flow-0.3.0": (
        [
            [-66.23006267139189, 75.05981398321526],
            [-29.47020881722308, -96.86804566382027],
            [52.51615797024769, -128.22290198246756],
        ],
        [0.0, 1.0, 2.0],
        [-11.116462707519531, -11.050529479980469, -11.117303848266602],
        1.0,
        [
            [21.00365447998047, 136.76551818847656],
            [-62.55440902709961, -42.2679443359375],
            [70.34701538085938, -150.22019958496094],
        ],
    ),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_file_of_an_earlier_version_loads(name):
    x, y, scores, condition, draws = SCORES[name]
    fitted = jaxgen.load(GOLDEN / f"{name}.jaxgen")
    np.testing.assert_allclose(fitted.log_prob(x, y), scores, rtol=1e-5)
    np.testing.assert_allclose(fitted.sample(KEY, 3, condition), draws, rtol=1e-4)


def test_names_come_back():
    fitted = jaxgen.load(GOLDEN / "labelled_mixture-0.3.0.jaxgen")
    assert fitted.columns == ("height", "weight")
    assert fitted.labels == ("apple", "pear", "plum")


@pytest.mark.parametrize("name", ["events-1-parquet", "events-1-npy"])
def test_a_folder_of_events_of_each_format_is_read(name):
    events = jaxgen.data.bulk.Dataset(GOLDEN / name)
    assert jaxgen.data.bulk.verify(GOLDEN / name).rows == 5
    x = [[-0.46370834, -0.11660764], [9.7049055, 6.9118934], [-0.23455364, -0.9280516]]
    found = events[[0, 2, 4]]
    np.testing.assert_allclose(found["x"], x, rtol=1e-6)
    assert list(found["y"]) == ["apple", "pear", "apple"]
    np.testing.assert_allclose(found["log_prob"], [-1.5538055, -4.272298, -2.7751596], rtol=1e-6)


def test_an_unfinished_folder_of_events_is_read():
    found = jaxgen.data.bulk.verify(GOLDEN / "events-1-unfinished")
    assert (found.rows, found.blocks, found.missing) == (2, 1, 2)
