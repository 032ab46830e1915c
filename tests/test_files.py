"""Model files: what is saved is loaded bit for bit, and damage is always detected."""

import errno
import hashlib
import io
import json
import os
import pathlib
import random
import re
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from cases import CASES

import jaxgen
from jaxgen import compose, models
from jaxgen.core import spec
from jaxgen.data import model_file as files
from jaxgen.data import output

SMALL = jaxgen.Fitted(
    models.Gaussian(2),
    {"mean": jnp.array([1.0, -2.0]), "scale_tril": jnp.eye(2)},
    columns=("a", "b"),
)
MODELS = [
    models.Box(2, margin=0.25),
    models.Gaussian(3, covariance="diagonal"),
    models.GaussianMixture(2, components=4),
    models.Histogram((3, 4), bounds=((0, 1), (-float("inf"), 2))),
    models.KDE(2),
    models.Bernoulli((2, 3)),
    models.Categorical((2,), levels=5),
]
AWKWARD = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, np.nextafter(np.float32(1), 2)], np.float32)
TREES = {
    "nested": {"a": [jnp.ones(2), (jnp.zeros(3),)], "b": {"c": ({"d": jnp.ones(())},)}},
    "names": {
        "a/b": jnp.ones(1),
        "a": {"b": jnp.zeros(1)},
        "__metadata__": jnp.ones(2),
        "": {"~": 1},
    },
    "int keys": {3: jnp.ones(1), 10: jnp.zeros(2)},
    "empty": {},
    "emptier": {"a": [], "b": (), "c": None, "d": {}, "e": jnp.zeros((0, 3))},
    "bare": jnp.float32(1.5),
    "types": {
        str(t): jnp.asarray([0, 1, 2], t)
        for t in ("bool", "int8", "int32", "uint8", "uint32", "float16", "float32")
    },
    "awkward": [AWKWARD, np.float32(-0.0)],
    "strides": {"a": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]},
}
TREES["names"][""]["~"] = jnp.ones(3)


def bits(tree):
    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(leaf) for leaf in leaves]
    return structure, [(v.dtype, v.shape, v.tobytes()) for v in leaves]


def kinds(node):
    """The Python containers and the order of keys; jax.tree's structures do not show the order."""
    if isinstance(node, dict):
        return [(k, kinds(v)) for k, v in node.items()]
    return (type(node), [kinds(v) for v in node]) if isinstance(node, (list, tuple)) else None


def seal(raw):
    """The file with the digest of its content."""
    place = files._DIGEST.search(raw)
    blank = raw[: place.start(1)] + b"0" * 64 + raw[place.end(1) :]
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def header_of(raw):
    length = int.from_bytes(raw[:8], "little")
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["jaxgen"])


def with_header(raw, **changes):
    """The file with some entries of its header replaced, and the matching digest."""
    header = header_of(raw) | {"sha256": "0" * 64} | changes
    arrays = safetensors.numpy.load(raw)
    return seal(safetensors.numpy.save(arrays, {"jaxgen": json.dumps(header)}))


@pytest.fixture
def small(tmp_path):
    files.save(SMALL, tmp_path / "small.jaxgen")
    return (tmp_path / "small.jaxgen").read_bytes()


@pytest.fixture
def x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_a_model_comes_back(model, tmp_path):
    fitted = jaxgen.Fitted(model, model.init(jax.random.key(0)))
    fitted.save(tmp_path / "m")
    back = jaxgen.load(str(tmp_path / "m"))
    assert back.model == model
    assert back.columns is None
    assert bits(back.params) == bits(fitted.params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back.params))


@pytest.mark.parametrize("name", TREES)
def test_params_come_back_bit_for_bit(name, tmp_path):
    tree = TREES[name]
    files.save(jaxgen.Fitted(Anything(), tree, columns=('quote"', "ünï", "")), tmp_path / "m")
    back = jaxgen.load(tmp_path / "m")
    assert bits(back.params) == bits(tree)
    assert kinds(back.params) == kinds(tree)
    assert back.columns == ('quote"', "ünï", "")


def test_columns_and_draws_are_the_same(tmp_path):
    SMALL.save(tmp_path / "m")
    back = jaxgen.load(tmp_path / "m")
    assert back.columns == ("a", "b")
    key = jax.random.key(3)
    np.testing.assert_array_equal(back.sample(key, 5), SMALL.sample(key, 5))


def test_equal_models_give_equal_files(small, tmp_path):
    for _ in range(5):
        files.save(SMALL, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == small


def test_a_64_bit_model_comes_back_in_x64_only(x64, tmp_path):
    params = {"low": jnp.array([0.1, np.pi]), "high": jnp.array([1.1, 2**40])}
    assert params["low"].dtype == np.float64
    files.save(jaxgen.Fitted(models.Box(2), params), tmp_path / "m")
    assert bits(jaxgen.load(tmp_path / "m").params) == bits(params)
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ValueError, match=r"m: .*float64.*enable x64"):
        jaxgen.load(tmp_path / "m")


class Anything(jaxgen.Model):
    """A model without ``init``, so that its params may be anything."""

    event_shape = (3,)


class Pair(NamedTuple):
    a: jax.Array


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({"a": [1.5]}, "params/a/0 is a float"),
        ({"a": Pair(jnp.ones(1))}, "params/a is a Pair"),
        ({("a",): jnp.ones(1)}, "neither str nor int"),
        ({"a": jax.random.key(0)}, r"params/a is an array of dtype key"),
        ({"a": jnp.ones(1, jnp.bfloat16)}, "bfloat16"),
        ({"a": np.array(["x"])}, "<U1"),
        ({"a": np.array([None])}, "object"),
    ],
    ids=str,
)
def test_what_a_file_cannot_hold_is_refused(params, where, tmp_path):
    with pytest.raises(TypeError, match=where):
        files.save(jaxgen.Fitted(models.Gaussian(2), params), tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_save_takes_a_fitted_only(tmp_path):
    with pytest.raises(TypeError, match="fitted must be a Fitted, got Gaussian"):
        files.save(models.Gaussian(2), tmp_path / "m")


# damage


def parse(raw, path):
    """The model that ``load`` reads from these bytes, without the disk."""
    return files._load(io.BytesIO(raw), path)


def refused(path, raw, load=None):
    """The message with which these bytes are refused; with ``load``, the disk is not used."""
    if load is None:
        path.write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        jaxgen.load(path) if load is None else load(raw, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_single_bit_flip_is_found(small, tmp_path):
    path = tmp_path / "flipped"
    for i in range(8 * len(small)):
        raw = bytearray(small)
        raw[i // 8] ^= 1 << i % 8
        assert "damaged" in refused(path, bytes(raw), parse)


def mutate(raw, rng):
    """Flip bits, truncate, insert, remove or move a block, or change the length, at random."""
    raw, kind = bytearray(raw), rng.randrange(6)
    i, size = rng.randrange(len(raw)), rng.randrange(1, 40)
    if kind == 0:
        for _ in range(rng.randrange(1, 8)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[i:]
    elif kind == 2:
        raw[i:i] = rng.randbytes(size)
    elif kind == 3:
        del raw[i : i + size]
    elif kind == 4:
        raw[i : i + size] = raw[(j := rng.randrange(len(raw))) : j + size]
    else:
        near = int.from_bytes(raw[:8], "little") + rng.randrange(-20, 20)
        raw[:8] = rng.choice([near, len(raw), rng.getrandbits(64), 0]).to_bytes(8, "little")
    return bytes(raw)


def test_mutated_files_are_refused(small, tmp_path):
    rng, path, accepted = random.Random(0), tmp_path / "mutated", 0
    for _ in range(10_000):
        raw = mutate(small, rng)
        if raw != small:
            refused(path, raw, parse)
        if files._DIGEST.search(raw) is None:
            continue
        # with a matching digest the content may be anything: it gives a model or a ValueError
        try:
            parse(seal(raw), path)
        except ValueError:
            continue
        accepted += 1
    assert 0 < accepted < 10_000  # both cases occur


@pytest.mark.parametrize("raw", [b"", b"{}", b"a,b\n1,2\n", b"\x93NUMPY", bytes(1000)], ids=repr)
def test_other_files_are_refused(raw, tmp_path):
    assert "not a jaxgen model" in refused(tmp_path / "other", raw)


def test_other_safetensors_are_refused(tmp_path):
    raw = safetensors.numpy.save({"mean": np.ones(2)}, {"format": "np"})
    assert "not a jaxgen model" in refused(tmp_path / "other", raw)


def test_every_truncation_is_refused(small, tmp_path):
    for size in range(len(small)):
        refused(tmp_path / "short", small[:size], parse)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 3, "jaxgen": "9.9"}, "written in format 3 by jaxgen 9.9"),
        ({"format": 1, "spec": {"spec": "SplineCoupling", "dim": 2}}, "fit it again"),
        ({"format": None}, "format None"),
        ({"spec": {"spec": "Normal", "shape": []}}, "Normal, which is not a model"),
        ({"spec": {"spec": "Gaussian", "dims": 2}}, "cannot be built"),
        ({"spec": {"spec": "Gaussian", "dim": 0}}, "at least 1"),
        ({"spec": {"spec": "os.system", "command": "true"}}, "import the module that defines it"),
        ({"spec": None}, "a spec must be a JSON object"),
        ({"columns": [1, 2]}, "columns"),
        ({"params": {"array": "params/gone"}}, "not a valid jaxgen model"),
        ({"params": {"object": []}}, "unknown kind of node: 'object'"),
        ({"params": {}}, "not a valid jaxgen model"),
        ({"params": 3}, "not a valid jaxgen model"),
    ],
    ids=str,
)
def test_a_strange_header_is_refused(changes, why, small, tmp_path):
    assert why in refused(tmp_path / "strange", with_header(small, **changes))


def test_an_unchanged_header_is_accepted(small, tmp_path):
    (tmp_path / "m").write_bytes(with_header(small))
    assert bits(jaxgen.load(tmp_path / "m").params) == bits(SMALL.params)


def test_a_deep_tree_is_refused(small, tmp_path):
    deep = '{"list": [' * 10_000 + "]}" * 10_000
    raw = with_header(small, params="deep").replace(
        b'\\"deep\\"', deep.replace('"', '\\"').encode()
    )
    length = int.from_bytes(raw[:8], "little") + len(raw) - len(with_header(small, params="deep"))
    refused(tmp_path / "deep", seal(length.to_bytes(8, "little") + raw[8:]))


def test_a_model_of_an_unknown_class_says_what_to_do(tmp_path):
    class Mine(jaxgen.Model):
        dim: int

    files.save(jaxgen.Fitted(Mine(2), {"a": jnp.ones(2)}), tmp_path / "m")
    assert jaxgen.load(tmp_path / "m").model == Mine(2)
    name = spec.spec_name(Mine)
    del spec._registry[name]
    message = refused(tmp_path / "m", (tmp_path / "m").read_bytes())
    assert name in message
    assert "import the module" in message


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        jaxgen.load(tmp_path / "gone")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        jaxgen.load(tmp_path)
    with pytest.raises(IsADirectoryError, match="it is a directory"):
        files.save(SMALL, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        files.save(SMALL, tmp_path / "gone" / "m")


# params that suit the model


KDE_OF_9 = {"points": jnp.ones((9, 2)), "log_weights": jnp.zeros(9), "bandwidth": jnp.ones(2)}
PLANE = {"mean": jnp.zeros(2), "scale_tril": jnp.eye(2)}
OF_CLASSES = compose.PerClass(models.Gaussian(2), 3)
UNSUITABLE = [
    (models.Gaussian(2), {**PLANE, "mean": jnp.zeros(3)}, {}, r"params/mean must have shape \(2\)"),
    (models.Gaussian(2), {**PLANE, "mean": jnp.zeros((3, 2))}, {}, "params/mean must have shape"),
    (models.Gaussian(2), {**PLANE, "mean": jnp.float32(0)}, {}, "params/mean must have shape"),
    (models.Gaussian(2), {**PLANE, "mean": jnp.zeros(2, int)}, {}, "params/mean must hold floats"),
    (models.Gaussian(2), {**PLANE, "mean": jnp.zeros(2, bool)}, {}, "params/mean must hold floats"),
    (models.Gaussian(2), {**PLANE, "mean": jnp.array([0, np.nan])}, {}, "params/mean holds NaN"),
    (
        models.Gaussian(2),
        {**PLANE, "mode": jnp.zeros(2)},
        {},
        "params/mode is not one of the params",
    ),
    (models.Gaussian(2), {"mean": jnp.zeros(2)}, {}, "params/scale_tril is missing"),
    (models.Gaussian(2), list(PLANE.values()), {}, "params/mean is missing"),
    (
        models.Gaussian(2),
        PLANE,
        {"columns": ("a", "b", "c")},
        "columns has 3 names, for 2 features",
    ),
    (models.Gaussian(2), PLANE, {"columns": ("a",)}, "columns has 1 names, for 2 features"),
    (models.Gaussian(2), PLANE, {"columns": ("a", "a")}, "columns has 'a' twice"),
    (models.Gaussian(2), PLANE, {"labels": ("a",)}, "labels has 1 names, for None labels"),
    (OF_CLASSES, None, {"labels": ("a", "b")}, "labels has 2 names, for 3 labels"),
    (OF_CLASSES, None, {"labels": (1, 2, 1)}, "labels has 1 twice"),
    (OF_CLASSES, {"logits": jnp.zeros(3), "model": PLANE}, {}, "params/model/mean must have shape"),
    (models.KDE(2), {**KDE_OF_9, "points": jnp.ones((9, 3))}, {}, r"points must have .*\(n, 2\)"),
    (models.KDE(2), {**KDE_OF_9, "bandwidth": jnp.ones(9)}, {}, "params/bandwidth must have shape"),
    (models.KDE(2), {**KDE_OF_9, "log_weights": jnp.ones(8)}, {}, "params/.* must have shape"),
    (models.Histogram((3,)), {"log_probs": jnp.zeros(4)}, {}, "params/.* is missing"),
    (Anything(), [jnp.ones(1), jnp.array(np.nan)], {}, "params/1 holds NaN"),
]


@pytest.mark.parametrize(("model", "params", "names", "why"), UNSUITABLE, ids=lambda v: str(v)[:30])
def test_what_does_not_suit_the_model_is_refused(model, params, names, why, tmp_path, monkeypatch):
    params = model.init(jax.random.key(0)) if params is None else params
    fitted = jaxgen.Fitted(model, params, **names)
    with pytest.raises(ValueError, match=why):
        fitted.save(tmp_path / "m")
    assert os.listdir(tmp_path) == []
    with monkeypatch.context() as patch:  # write the file without the checks
        patch.setattr(files.params_of, "check", lambda *_: None)
        patch.setattr(files, "_check_names", lambda *_: None)
        fitted.save(tmp_path / "m")
    assert re.search(why, refused(tmp_path / "m", (tmp_path / "m").read_bytes()))


@pytest.mark.parametrize(
    ("model", "params"),
    [
        (models.KDE(2), KDE_OF_9),
        (models.KDE(2), {k: jnp.stack([v] * 5) for k, v in KDE_OF_9.items()}),  # 5 fits
        (models.Gaussian(2), {k: jnp.stack([v] * 5) for k, v in PLANE.items()}),
        (models.Gaussian(2), {k: v.astype(np.float16) for k, v in PLANE.items()}),
        (models.Gaussian(2), {**PLANE, "mean": jnp.array([0, -jnp.inf])}),
        (
            compose.PerClass(models.KDE(2), 3),
            {"logits": jnp.zeros(3), "model": {k: jnp.stack([v] * 3) for k, v in KDE_OF_9.items()}},
        ),
    ],
    ids=lambda v: str(v)[:30],
)
def test_sizes_from_data_and_params_of_many_fits_are_accepted(model, params, tmp_path):
    jaxgen.Fitted(model, params).save(tmp_path / "m")
    assert bits(jaxgen.load(tmp_path / "m").params) == bits(params)


@pytest.mark.parametrize("case", [c for c in CASES if c.is_built], ids=lambda case: case.name)
def test_a_leaf_of_wrong_shape_dtype_or_name_is_refused_in_every_family(case):
    key = jax.eval_shape(lambda: jax.random.key(0))
    like = jax.eval_shape(case.model.init, key)
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), like))
    files.params_of.check(case.model, tree.unflatten(leaves))
    for place, leaf in enumerate(leaves):
        wrong = [leaf.astype(int if leaf.dtype.kind == "f" else float)]
        if leaf.size:
            wrong += [leaf + np.nan]
        if leaf.size and leaf.ndim:
            wrong += [np.concatenate([leaf, leaf[..., :1]], -1)]
        if len(leaves) > 1:  # a leading axis of all params means several fits
            wrong += [leaf[None]]
        for other in wrong:
            changed = [*leaves[:place], other, *leaves[place + 1 :]]
            with pytest.raises(ValueError, match=r"^params.* (must h|holds NaN)"):
                files.params_of.check(case.model, tree.unflatten(changed))
    with pytest.raises(ValueError, match=r"params/1.* is none|missing"):
        files.params_of.check(case.model, (tree.unflatten(leaves), np.zeros(1)))


def test_arrays_that_are_no_params_are_refused(small, tmp_path):
    arrays = {**safetensors.numpy.load(small), "params/more": np.ones(2)}
    raw = seal(safetensors.numpy.save(arrays, {"jaxgen": json.dumps(header_of(small))}))
    assert "params/more, which is none of its params" in refused(tmp_path / "m", raw)


def test_infinities_in_a_spec_are_written_as_text(tmp_path):
    model = models.Histogram((3, 4), bounds=((0, 1), (-float("inf"), 2)))
    jaxgen.Fitted(model, model.init(jax.random.key(0))).save(tmp_path / "m")
    raw = (tmp_path / "m").read_bytes()
    assert header_of(raw)["spec"]["bounds"] == [[0.0, 1.0], ["-inf", 2.0]]
    assert b"Infinity" not in raw
    assert jaxgen.load(tmp_path / "m").model == model


# large files and failures of the machine


@pytest.mark.parametrize("kind", ["model", "zeros", "table", "short header", "one tensor"])
def test_a_file_of_200_gigabytes_is_refused_after_its_header(kind, small, tmp_path, monkeypatch):
    short = bytes([5, *bytes(7)]) + small[8:]
    begin = {"model": small, "zeros": b"", "table": b"1,2\n" * 1000, "short header": short}.get(
        kind
    )
    if begin is None:  # its header states another size
        begin = small.replace(b'"data_offsets":[8,24]', b'"data_offsets":[8,99]')
    (tmp_path / "big").write_bytes(begin)
    os.truncate(tmp_path / "big", 200 * 10**9)
    taken = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            taken.append(super().read(size))
            return taken[-1]

    monkeypatch.setattr("builtins.open", lambda path, mode: Counted(path, mode))
    with pytest.raises(ValueError, match=r"big: (damaged: it has|not a jaxgen model)"):
        jaxgen.load(tmp_path / "big")
    assert sum(map(len, taken)) < 2000


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no cuda"), MemoryError()])
@pytest.mark.parametrize("where", ["jnp.array", "from_json", "safetensors.numpy.load", "open"])
def test_errors_of_the_machine_are_not_changed(where, error, small, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    (tmp_path / "m").write_bytes(small)
    target = "builtins.open" if where == "open" else f"jaxgen.data.model_file.{where}"
    monkeypatch.setattr(target, fail)
    with pytest.raises(type(error)) as caught:
        jaxgen.load(tmp_path / "m")
    assert caught.value is error


def test_a_model_is_read_from_a_pipe(small, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for raw in (small, small + b"more"):
        thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(raw,), daemon=True)
        thread.start()
        if raw == small:
            assert bits(jaxgen.load(tmp_path / "pipe").params) == bits(SMALL.params)
        else:
            with pytest.raises(ValueError, match="pipe: damaged: it has"):
                jaxgen.load(tmp_path / "pipe")
        thread.join(10)


# writing


def test_a_file_appears_whole_and_after_it_is_on_disk(monkeypatch, tmp_path):
    path, steps = tmp_path / "f", []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(fd):
        steps.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def spied_replace(source, target):
        steps.append(("replace", pathlib.Path(source).read_bytes(), path.read_bytes()))
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    path.write_bytes(b"old")
    with output.write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    if os.path.isdir("/proc/self/fd"):
        assert steps == ["file", ("replace", b"new", b"old"), "directory"]


@pytest.mark.parametrize("fails", ["fsync", "replace", "write", "interrupt"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(fails, monkeypatch, small, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails in ("fsync", "replace"):
        monkeypatch.setattr(os, fails, full)
    other = jaxgen.Fitted(models.Box(1), {"low": jnp.zeros(1), "high": jnp.ones(1)})
    with pytest.raises((OSError, KeyboardInterrupt)):  # noqa: PT012
        if fails in ("fsync", "replace"):
            files.save(other, tmp_path / "small.jaxgen")
        with output.write_atomically(tmp_path / "small.jaxgen") as file:
            file.write(b"half")
            file.flush()
            raise KeyboardInterrupt if fails == "interrupt" else OSError(errno.ENOSPC, "full")
    assert os.listdir(tmp_path) == ["small.jaxgen"]
    assert (tmp_path / "small.jaxgen").read_bytes() == small


def test_a_link_is_followed_and_permissions_are_the_usual_ones(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "link").symlink_to("target")
    files.save(SMALL, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert jaxgen.load(tmp_path / "target").model == SMALL.model
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "plain").stat().st_mode
