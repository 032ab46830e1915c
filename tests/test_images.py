"""Image files and arrays of them, the format of images, and files of images that are written."""

import gzip
import pickle
import re
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

import jaxgen
from jaxgen import models
from jaxgen.data import PixelFormat, grid, read_images, write_images
from jaxgen.data.images import check_images_output, holds_images
from jaxgen.data.images.reading import as_size
from jaxgen.data.images.writing import is_folder_name, write_pixels

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
BITS = RNG.integers(0, 2, (6, 5, 4), dtype=np.uint8)


def save(pixels, path, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


# Formats.


def test_levels_survive_a_file():
    for levels in range(2, 257):
        pixels = PixelFormat("L", levels)
        every = np.arange(levels).reshape(1, 1, levels)
        values = pixels.decode(every)
        np.testing.assert_array_equal(pixels.encode(values), every)
        assert (values.min(), values.max()) == (0, 255)
        assert abs(values - every * 255 / (levels - 1)).max() <= 1
        encoded = pixels.encode(np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
        assert encoded.dtype == np.uint8
        assert np.bincount(encoded.ravel(), minlength=levels).min() >= 256 // levels


def test_draws_with_fractions_become_the_nearest_level():
    pixels = PixelFormat("L", 3)
    events = np.array([[[-1.0, 0.4, 0.6, 1.6, 99.0, np.inf]]])
    assert pixels.decode(events).tolist() == [[[0, 0, 128, 255, 255, 255]]]
    assert pixels.decode(jax.numpy.ones((1, 2, 2))).tolist() == [[[128, 128], [128, 128]]]


def test_events_that_are_vectors():
    pixels = PixelFormat("RGB", 256, (5, 4))
    events = pixels.encode(COLOUR)
    assert events.shape == (6, 60)
    assert pixels.suits((60,))
    assert not pixels.suits((5, 4, 3))
    np.testing.assert_array_equal(pixels.decode(events), COLOUR)


def test_the_format_follows_from_the_images():
    assert PixelFormat.of(GREY) == PixelFormat("L", 256)
    assert PixelFormat.of(COLOUR) == PixelFormat("RGB", 256)
    assert PixelFormat.of(255 * BITS) == PixelFormat("1", 2)
    assert PixelFormat.of(GREY, 2) == PixelFormat("1", 2)
    assert PixelFormat.of(COLOUR, 8) == PixelFormat("RGB", 8)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: PixelFormat("L", 257), ValueError, "levels must be at most 256, got 257"),
        (lambda: PixelFormat("L", 1), ValueError, "levels must be at least 2"),
        (lambda: PixelFormat("1", 4), ValueError, r'mode "1" .* PixelFormat\("1", 2\); got 4'),
        (lambda: PixelFormat("1"), ValueError, r'mode "1" .* PixelFormat\("1", 2\); got 256'),
        (lambda: PixelFormat("CMYK"), ValueError, "mode must be one of"),
        (lambda: PixelFormat("L").encode(COLOUR), ValueError, r"shape \(n, height, width\), got"),
        (lambda: PixelFormat("RGB").encode(GREY), ValueError, r"\(n, height, width, 3\), got"),
        (lambda: PixelFormat("L").encode(GREY / 255), TypeError, "images must be uint8, .* float"),
        (lambda: PixelFormat("1", 2).encode(BITS > 0), TypeError, "images must be uint8, .* bool"),
        (lambda: PixelFormat.of(BITS / 1), TypeError, "images must be uint8, .* got float64"),
        (
            lambda: PixelFormat("L").encode(GREY.astype(int)),
            TypeError,
            "images must be uint8, .* got int64",
        ),
        (lambda: PixelFormat("L").encode("a"), TypeError, "images must be an array of numbers"),
        (lambda: PixelFormat("L").decode(np.zeros((2, 4))), ValueError, "events must be images"),
        (
            lambda: PixelFormat("L").decode(np.full((2, 4, 4), np.nan)),
            ValueError,
            "events must hold no NaN, but row 0 has one",
        ),
    ],
)
def test_bad_formats(call, error, match):
    with pytest.raises(error, match=match):
        call()


# Reading.


def test_a_folder_with_labels(tmp_path):
    for i, one in enumerate(GREY):
        save(one, tmp_path / ("pear" if i % 2 else "apple/old") / f"{i}.png")
    (tmp_path / ".hidden").mkdir()
    save(COLOUR[0], tmp_path / ".hidden" / "x.png")
    (tmp_path / "pear" / "Thumbs.db").write_text("?")
    (tmp_path / "pear" / "gone.png").symlink_to(tmp_path / "none")
    (tmp_path / "pear" / "again").symlink_to(tmp_path)  # a loop
    found = read_images(tmp_path, labels=True)
    np.testing.assert_array_equal(found.images, GREY[[0, 2, 4, 1, 3, 5]])
    assert found.labels == ["apple"] * 3 + ["pear"] * 3
    assert found.files[0] == "apple/old/0.png"
    assert found.notes == (
        "1 file that is no image, pear/Thumbs.db, left out",
        "1 broken link, pear/gone.png, left out",
        "1 hidden folder with images, .hidden, left out",
    )
    (tmp_path / "pear" / "again").unlink()
    links = tmp_path / ".links"
    links.mkdir()
    (links / "plum").symlink_to(tmp_path / "pear")
    linked = read_images(links, labels=True)
    assert linked.labels == ["plum"] * 3
    assert linked.files[0] == "plum/1.png"
    assert read_images(tmp_path).labels is None
    assert holds_images(tmp_path)
    assert not holds_images(tmp_path / "pear" / "Thumbs.db")


def test_grey_stays_grey_and_a_mixture_becomes_coloured(tmp_path):
    save(GREY[0], tmp_path / "a.png")
    save(255 * BITS[0], tmp_path / "b.png", "1")
    found = read_images(tmp_path)
    np.testing.assert_array_equal(found.images, [GREY[0], 255 * BITS[0]])
    assert found.notes == ()
    save(COLOUR[0], tmp_path / "c.png")
    mixed = read_images(tmp_path)
    assert mixed.images.shape == (3, 5, 4, 3)
    np.testing.assert_array_equal(mixed.images[0], np.repeat(GREY[0][..., None], 3, -1))
    assert mixed.notes == ("2 grey images became RGB, as 1 is in colour",)
    for mode, note in (("L", "1 image in colour became grey"), ("RGB", "2 grey images became RGB")):
        of_mode = read_images(tmp_path, mode=mode)
        assert of_mode.images.shape[:3] == (3, 5, 4)
        assert of_mode.notes == (note,)
    # equal colours are kept as they are stored
    save(np.repeat(GREY[0][..., None], 3, -1), tmp_path / "d" / "e.png")
    assert read_images(tmp_path / "d").images.shape == (1, 5, 4, 3)


def palette(greys):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 10, 10, 200, 200, 200] if greys else [10, 10, 10, 200, 0, 0])
    return image


def deep():
    return Image.fromarray(np.array([[0, 257 * 77], [65535, 128]], np.uint16))


def see_through(mode):
    image = Image.new("RGBA", (2, 1), (200, 200, 200, 0))
    image.putpixel((1, 0), (100, 100, 100, 255))
    return image.convert(mode)


def turned():
    image = Image.fromarray(GREY[0])
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise shows it upright
    return image, {"exif": exif}


HANDLED = {  # name of the file: image, options of save, pixels
    "grey palette.png": (palette(True), {}, [[10, 200], [200, 10]]),
    "palette.gif": (
        palette(False),
        {},
        [[[10, 10, 10], [200, 0, 0]], [[200, 0, 0], [10, 10, 10]]],
    ),
    "16 bits.png": (deep(), {}, [[0, 77], [255, 0]]),
    "16 bits.tiff": (deep(), {}, [[0, 77], [255, 0]]),
    "alpha.png": (see_through("RGBA"), {}, [[[255] * 3, [100] * 3]]),
    "grey alpha.png": (see_through("LA"), {}, [[255, 100]]),
    "transparent colour.png": (
        Image.fromarray(np.array([[7, 9]], np.uint8)),
        {"transparency": 7},
        [[255, 9]],
    ),
    "transparent palette.png": (palette(True), {"transparency": 0}, [[255, 200], [200, 255]]),
    "cmyk.tiff": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), {}, [[[255, 0, 0]]]),
    "turned.png": (*turned(), np.rot90(GREY[0], -1).tolist()),
    "bits.bmp": (Image.fromarray(255 * BITS[0]).convert("1"), {}, (255 * BITS[0]).tolist()),
    "UPPER.PNG": (Image.fromarray(GREY[0]), {}, GREY[0].tolist()),
}


@pytest.mark.parametrize("name", HANDLED)
def test_kinds_of_files(tmp_path, name):
    image, options, pixels = HANDLED[name]
    image.save(tmp_path / name, **options)
    found = read_images(tmp_path)
    assert found.images[0].tolist() == pixels
    assert found.files == [name]
    np.testing.assert_array_equal(read_images(tmp_path / name).images, found.images)


def test_cmyk_of_a_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    found = read_images(tmp_path / "a.jpg").images
    assert found.shape == (1, 8, 8, 3)
    assert abs(found.astype(int) - [255, 0, 0]).max() < 4


def test_sizes(tmp_path):
    checks = np.array([[0, 0, 90, 90], [0, 0, 90, 90], [30, 30, 60, 60], [30, 30, 60, 60]])
    save(checks.astype(np.uint8), tmp_path / "a.png")
    save(np.pad(checks, ((0, 0), (1, 1))).astype(np.uint8), tmp_path / "b.png")
    save(np.array([[0, 90], [30, 60]], np.uint8), tmp_path / "c.png")
    found = read_images(tmp_path, size=2)
    assert found.images.tolist() == [[[0, 90], [30, 60]]] * 3  # the sides of b are cut off
    assert found.notes == ("2 images were scaled to 2 x 2",)
    assert read_images(tmp_path, size=(1, 2)).images.shape == (3, 1, 2)
    with pytest.raises(ValueError, match=r"got \(height x width\) 4 x 4 \(1\), 4 x 6 \(1\), 2 x 2"):
        read_images(tmp_path)


def idx(array, code=8):
    head = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def test_idx(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(GREY)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(6)))
    found = read_images(path, labels=True)
    np.testing.assert_array_equal(found.images, GREY)
    assert found.labels == [0, 1, 2, 3, 4, 5]
    assert found.files is None
    assert holds_images(path)
    assert not holds_images(tmp_path / "train-labels-idx1-ubyte")
    assert read_images(path, size=(2, 3)).images.shape == (6, 2, 3)


def test_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=GREY, labels=np.arange(6) % 2, names=np.array(["a", "b"]))
    found = read_images(path, labels=True)
    np.testing.assert_array_equal(found.images, GREY)
    assert found.labels == ["a", "b"] * 3
    np.save(tmp_path / "x.npy", COLOUR[..., :1])
    np.testing.assert_array_equal(read_images(tmp_path / "x.npy").images, COLOUR[..., 0])
    np.testing.assert_array_equal(read_images(BITS).images, 255 * BITS)
    np.testing.assert_array_equal(read_images(BITS > 0).images, 255 * BITS)
    np.testing.assert_array_equal(read_images(GREY / 255).images, GREY)
    np.testing.assert_array_equal(read_images(GREY.astype(float)).images, GREY)
    assert read_images(GREY, mode="RGB").images.shape == (6, 5, 4, 3)
    assert read_images(GREY[0:1] * 0).images.tolist() == (GREY[0:1] * 0).tolist()


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])
    return path


def too_large(path):
    """A PNG whose header says 9,700 x 9,900 pixels, and that holds few."""
    raw = bytearray(save(GREY[0], path).read_bytes())
    raw[16:24] = struct.pack(">2I", 9700, 9900)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return written(path, bytes(raw))


def animated(path, **options):
    frames = [Image.fromarray(one) for one in GREY]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def empty_class(path):
    save(GREY[0], path / "a" / "1.png")
    (path / "b").mkdir()
    return path


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbers(path, **arrays):
    np.savez(path, **arrays)
    return path


def labels_beside(path, labels):
    (path / "a-labels-idx1-ubyte").write_bytes(labels)
    return written(path / "a-images-idx3-ubyte", idx(GREY))


NOISE = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
BROKEN = {  # what is wrong: how to make it, whether labels are read, and the error
    "truncated png": (lambda p: cut(save(NOISE, p / "a.png")), False, "a.png: a damaged image: "),
    "truncated jpeg": (lambda p: cut(save(NOISE, p / "a.jpg")), False, "a.jpg: a damaged image: "),
    "text called png": (lambda p: written(p / "a.png", "hello"), False, "a.png: no image, or dama"),
    "empty png": (lambda p: written(p / "a.png", ""), False, "a.png: no image, or damaged"),
    "animated gif": (lambda p: animated(p / "a.gif"), False, "a.gif: it has 6 frames, and an"),
    "animated png": (lambda p: animated(p / "a.png"), False, "a.png: it has 6 frames, and an"),
    "pages": (lambda p: animated(p / "a.tiff"), False, "a.tiff: it has 6 frames, and an image"),
    "fractions": (
        lambda p: save(GREY[0].astype(np.float32), p / "a.tiff"),
        False,
        "a.tiff: it holds numbers with fractions",
    ),
    "32 bits": (
        lambda p: save(GREY[0].astype(np.int32), p / "a.tiff"),
        False,
        "a.tiff: it holds whole numbers of 32 bits",
    ),
    "too many pixels": (
        lambda p: too_large(p / "a.png"),
        False,
        "a.png: an image of 96,030,000 pixels, and at most 89,478,485 are read",
    ),
    "empty class": (empty_class, True, "b: the folder of a label must hold images, it has none"),
    "no class": (
        lambda p: save(GREY[0], p / "a.png").parent,
        True,
        "a.png: labels are the names of subfolders, and this image is in none",
    ),
    "labels of one image": (lambda p: save(GREY[0], p / "a.png"), True, "and this is one image"),
    "no images": (lambda p: p, False, "the folder must hold images, .* it has none"),
    "hidden images": (lambda p: save(GREY[0], p / ".a.png").parent, False, "must hold images"),
    "no image": (lambda p: written(p / "a.txt", "a"), False, "a.txt: must be a folder of images"),
    "short idx": (lambda p: written(p / "a", idx(GREY)[:-1]), False, "a: damaged: it has 119"),
    "idx of a cut header": (
        lambda p: written(p / "a", idx(GREY)[:9]),
        False,
        "a: damaged: it ends within its header",
    ),
    "idx of no images": (lambda p: written(p / "a", idx(GREY[:0])), False, "at least one image"),
    "idx of floats": (lambda p: written(p / "a", idx(GREY, 13)), False, "a: must hold bytes"),
    "damaged gzip": (
        lambda p: cut(written(p / "a.gz", gzip.compress(idx(GREY)))),
        False,
        "a.gz: damaged: ",
    ),
    "idx without labels": (
        lambda p: written(p / "a-images-idx3-ubyte", idx(GREY)),
        True,
        "labels need a file a-labels-idx1-ubyte or",
    ),
    "too few labels": (
        lambda p: labels_beside(p, idx(np.arange(3))),
        True,
        r"one label for each of the 6 images in .*, got shape \(3,\)",
    ),
    "damaged labels": (lambda p: labels_beside(p, b"abcdefgh"), True, "not an IDX file"),
    "several arrays": (
        lambda p: numbers(p / "a.npz", b=GREY, c=GREY),
        False,
        r"needs an array of images .* it has 'b' \(6, 5, 4\), 'c'",
    ),
    "no array of images": (lambda p: numbers(p / "a.npz", x=GREY[0]), False, "needs an array of"),
    "no labels": (lambda p: numbers(p / "a.npz", x=GREY), True, "no array of labels, 'y' or"),
    "few labels": (
        lambda p: numbers(p / "a.npz", x=GREY, y=np.arange(3)),
        True,
        r"'y' must have shape \(6,\)",
    ),
    "numbers beyond names": (
        lambda p: numbers(p / "a.npz", x=GREY, y=np.arange(6), names=np.array(["a", "b"])),
        True,
        "'y' must be numbers of the 2 'names', from 0, but row 2 has 2",
    ),
    "labels with fractions": (
        lambda p: numbers(p / "a.npz", x=GREY, y=np.array([0, 1, 0.5, 1, 0, 1])),
        True,
        "'y' must hold strings or whole numbers, but row 2 has 0.5",
    ),
    "missing labels": (
        lambda p: numbers(p / "a.npz", x=GREY, y=np.array([0, np.nan, 0, 1, 0, 1])),
        True,
        "but row 1 has nan",
    ),
    "labels of bytes": (
        lambda p: numbers(p / "a.npz", x=GREY, y=np.array([b"a"] * 6)),
        True,
        "'y' must hold strings or whole numbers, got .*S1",
    ),
    "text called npz": (lambda p: written(p / "a.npz", "hello"), False, "a.npz: it is no .npz"),
    "damaged npz": (lambda p: cut(numbers(p / "a.npz", x=GREY)), False, "a.npz: "),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files(tmp_path, what):
    make, labels, match = BROKEN[what]
    with pytest.raises(ValueError, match=match) as raised:
        read_images(make(tmp_path), labels=labels)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("array", "error", "match"),
    [
        (GREY[0], ValueError, r"images must have shape \(n, height, width\), or"),
        (COLOUR[..., :2], ValueError, r"got \(6, 5, 4, 2\)"),
        (np.moveaxis(COLOUR, -1, 1), ValueError, "colours are the last axis"),
        (np.zeros((2, 5, 4, 4)), ValueError, "images in arrays have no transparency"),
        (GREY[:0], ValueError, "images must hold at least one image"),
        (GREY + 0.5, ValueError, "images must hold whole numbers from 0 to 255, but row 0 has"),
        (GREY / 255 + [[np.nan]], ValueError, "but row 0 has nan"),
        (GREY.astype(int) + 300, ValueError, "images must hold whole numbers from 0 to 255"),
        (np.array(["a"]), TypeError, "images must be an array of numbers"),
    ],
)
def test_broken_arrays(array, error, match):
    with pytest.raises(error, match=match):
        read_images(array)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_images(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r'mode must be "L", "RGB" or None, got \'P\''):
        read_images(GREY, mode="P")
    with pytest.raises(TypeError, match="labels are those of files"):
        read_images(GREY, labels=True)
    sizes = ((0, ValueError), (2.5, TypeError), ((1, 2, 3), ValueError), (2**14 + 1, ValueError))
    for size, error in (*sizes, (10**20, ValueError)):
        with pytest.raises(error, match="size must be"):
            as_size(size)


# Writing.


def test_a_grid():
    sheet = grid(GREY, columns=4, padding=2)
    assert sheet.shape == (2 * 7 + 2, 4 * 6 + 2)
    np.testing.assert_array_equal(sheet[9:14, 8:12], GREY[5])
    assert (sheet[9:14, 14:] == 128).all()  # the places after the last image
    assert grid(COLOUR).shape == (2 * 6 + 1, 3 * 5 + 1, 3)
    assert grid(BITS, padding=0).max() == 255
    with pytest.raises(ValueError, match="columns must be at least 1"):
        grid(GREY, columns=0)


def test_folders_that_are_written_can_be_read(tmp_path):
    labels = ["apple", "pear"] * 3
    write_images(COLOUR, tmp_path / "out", labels=labels)
    found = read_images(tmp_path / "out", labels=True)
    assert found.files[0] == "apple/0.png"
    order = [0, 2, 4, 1, 3, 5]
    np.testing.assert_array_equal(found.images, COLOUR[order])
    assert found.labels == [labels[i] for i in order]
    many = np.zeros((11, 2, 2), np.uint8)
    write_images(many, tmp_path / "many")
    assert read_images(tmp_path / "many").files[-1] == "10.png"
    with Image.open(tmp_path / "many" / "00.png") as image:
        assert image.mode == "1"


def test_values_of_8_bits_are_written_as_they_are(tmp_path):
    write_pixels(BITS, tmp_path / "dark")
    with Image.open(tmp_path / "dark" / "0.png") as image:
        np.testing.assert_array_equal(np.asarray(image), BITS[0])
    write_pixels(BITS[:1], tmp_path / "dark.png")
    with Image.open(tmp_path / "dark.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[1:-1, 1:-1], BITS[0])


def test_names_of_folders_on_windows(monkeypatch):
    for name in ("a ", "b.", "c?"):
        assert is_folder_name(name)
    monkeypatch.setattr("jaxgen.data.images.writing.os.name", "nt")
    for name in ("a ", "b.", "c?"):
        assert not is_folder_name(name)
    assert is_folder_name("a b")


def test_outputs_that_are_refused(tmp_path):
    write_images(GREY, tmp_path / "a.png")
    with pytest.raises(ValueError, match="images need a file that ends in"):
        write_images(GREY, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="the folder must be new or empty"):
        write_images(GREY, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        write_images(GREY, tmp_path / "none" / "out")
    with pytest.raises(OSError, match="it is the same file as"):
        check_images_output(tmp_path / "a.png", others=[tmp_path / "a.png"])
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="it is a file, and no folder"):
        write_images(GREY, tmp_path / "file")
    with pytest.raises(ValueError, match="labels are for a folder"):
        write_images(GREY, tmp_path / "b.png", labels=["a"] * 6)
    for labels, match in (
        (["a"] * 5, "one entry for each of 6 images, got 5"),
        (["a", "../b", "c", "d", "e", "f"], re.escape("but '../b' of row 1 cannot be one")),
        ([""] * 6, "of row 0 cannot be one"),
    ):
        with pytest.raises(ValueError, match=match):
            write_images(GREY, tmp_path / "out", labels=labels)
        assert not (tmp_path / "out").exists()


# Fitted models.


def test_a_fitted_model_knows_its_images(tmp_path):
    pixels = PixelFormat("1", 2)
    fitted = jaxgen.fit(models.Bernoulli(), BITS, key=jax.random.key(0))
    assert fitted.pixels is None
    fitted.pixels = pixels
    fitted.save(tmp_path / "m")
    for same in (
        jaxgen.load(tmp_path / "m"),
        pickle.loads(pickle.dumps(fitted)),
        jax.tree.map(lambda leaf: leaf, fitted),
        fitted.replace(smoothing=fitted.model.smoothing),
        jaxgen.fit(fitted, BITS, key=jax.random.key(0)),
    ):
        assert same.pixels == pixels
        assert same.sample(jax.random.key(0), 2).max() <= 1  # levels
    assert fitted.marginal([0, 1]).pixels is None
    del vars(fitted)["pixels"]  # as in a pickle of an earlier version
    assert fitted.pixels is None


@pytest.mark.parametrize("pixels", [PixelFormat("RGB"), PixelFormat("L", 256, (4, 4))])
def test_a_format_that_does_not_suit_the_model(tmp_path, pixels):
    model = models.Bernoulli((4, 4))
    fitted = jaxgen.Fitted(model, model.init(jax.random.key(0)), pixels=pixels)
    with pytest.raises(ValueError, match=r"pixels is PixelFormat\(.*\), for events of shape"):
        fitted.save(tmp_path / "m")
