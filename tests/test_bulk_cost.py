"""The cost of bulk generation: arithmetic of given rates, and the probe that measures them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.data.bulk import cost
from jaxgen.data.bulk.cost import estimate
from jaxgen.data.bulk.rates import Rates

N, SIZE = 10**9, 8 * 10**9  # events, and bytes of them
BOX = jaxgen.Fitted(models.Box(2), {"low": jnp.zeros(2), "high": jnp.ones(2)})

ESTIMATES = [  # rates, blocks, devices, devices of a machine, seconds, limit
    # drawing and saving overlap
    (Rates(1e8, 4e9, 2e9, 1e9), 1000, 1, 1, 10.0, "draw"),
    (Rates(1e9, 1e9, 2e9, 5e8), 1000, 1, 1, 16.0, "encode"),
    (Rates(1e9, 2e9, 1e9, 5e8), 1000, 1, 1, 16.0, "write"),
    # but share the cores of a CPU, and start after a compilation
    (Rates(1e8, 4e9, 2e9, 1e9, shared=1.0), 1000, 1, 1, 18.0, "draw"),
    (Rates(1e8, 4e9, 2e9, 1e9, shared=0.5, start=3.0), 1000, 1, 1, 17.0, "draw"),
    # machines share the work, in whole blocks
    (Rates(1e8, 4e9, 2e9, 1e9), 1000, 8, 1, 1.25, "draw"),
    (Rates(1e8, 4e9, 2e9, 1e9), 10, 8, 1, 2.0, "draw"),
    (Rates(1e8, 4e9, 2e9, 1e9), 10, 1000, 1, 1.0, "draw"),
    # the devices of a machine save together
    (Rates(1e8, 4e9, 4e9, 1e9), 1000, 8, 8, 8.0, "encode"),
    (Rates(1e8, 4e9, 4e9, 1e9), 1000, 1000, 8, 0.08, "storage"),
    # machines have a network each and one file system
    (Rates(1e10, 4e9, 4e9, 4e9), 1000, 8, 1, 0.8, "network"),
    (Rates(1e10, 4e9, 4e9, 4e9), 1000, 1, 1, 2.0, "encode"),
    (Rates(1e10, 4e9, 4e9, 4e9), 1000, 1000, 1, 0.08, "storage"),
]


@pytest.mark.parametrize(("rates", "blocks", "devices", "each", "seconds", "limit"), ESTIMATES)
def test_estimate_follows_from_the_rates(rates, blocks, devices, each, seconds, limit):
    found = estimate(rates, N, SIZE, blocks, devices, each)
    assert found.seconds == pytest.approx(seconds)
    assert found.limit == limit
    assert found[:2] == (N, devices)
    assert found[3:5] == (SIZE, blocks)


def test_networks_and_storage_are_parameters():
    rates = Rates(1e10, 4e9, 4e9, 4e9)
    assert estimate(rates, N, SIZE, 1000, 8, network=1e8).seconds == pytest.approx(10.0)
    assert estimate(rates, N, SIZE, 1000, 8, storage=1e9).seconds == pytest.approx(8.0)


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_probe_measures_rates_and_leaves_no_files(tmp_path, file_format):
    options = {"file_format": file_format, "log_prob": True, "block_rows": 10**5}
    found = cost.plan(BOX, 10**8, tmp_path / "events", **options)
    assert list(tmp_path.iterdir()) == []
    assert all(math.isfinite(rate) and rate > 0 for rate in found.rates[:4])
    assert found.rates.start >= 0
    assert found.rates.save <= 1.5 * min(found.rates.encode, found.rates.write)
    assert [row.devices for row in found.estimates] == [1, 8, 1000]
    assert {row.files for row in found.estimates} == {1000 if file_format == "parquet" else 2000}
    assert all(1.2e9 < row.bytes < 1.3e9 for row in found.estimates)
    text = str(found)
    assert "draw" in text
    assert text.splitlines()[-1].split()[:2] == ["100,000,000", "1,000"]


def test_plan_of_labels_and_of_a_folder_that_is_there(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2))
    kinds = jaxgen.fit(
        compose.PerClass(models.Box(2)), x, ["pear", "fig"] * 10, key=jax.random.key(0)
    )  # fmt: skip
    (tmp_path / "events").mkdir()
    found = cost.plan(kinds, None, tmp_path / "events")
    assert [row.n for row in found.estimates] == [10**9] * 3 + [10**12] * 3
    assert found.estimates[0].bytes > 8 * 10**9
    assert list((tmp_path / "events").iterdir()) == []


def test_bad_arguments_are_named(tmp_path):
    for error, message, n, folder, options in (
        (ValueError, "n must be at least 1", 0, "x", {}),
        (ValueError, "file_format must be", 10, "x", {"file_format": "csv"}),
        (ValueError, "network must be a positive", 10, "x", {"network": 0}),
        (ValueError, "storage must be a positive", 10, "x", {"storage": math.nan}),
        (ValueError, "block_rows must be at least", None, "x", {"block_rows": 1}),
        (ValueError, "y was given", 10, "x", {"y": 1}),
        (NotADirectoryError, "is no folder", 10, "none/x", {}),
    ):
        with pytest.raises(error, match=message):
            cost.plan(BOX, n, tmp_path / folder, **options)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is no folder"):
        cost.plan(BOX, 10, tmp_path / "file")


def test_sizes_and_times_in_words():
    sizes = [cost.bytes_in_words(size) for size in (5, 1234, 8.03e9, 9.999e11, 5e15)]
    assert sizes == ["5 B", "1.23 kB", "8.03 GB", "1 TB", "5 PB"]
    times = [cost.time_in_words(seconds) for seconds in (0.5, 90, 600, 86400, 1e7)]
    assert times == ["0.5 s", "90 s", "10 min", "24.0 h", "2,777.8 h"]
