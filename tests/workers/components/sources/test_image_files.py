"""Images as cameras, scanners and editors write them, compared with Pillow; files that cannot be read."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tapeworks.errors import FailureCode, JobFailure
from tests.workers.components.conftest import source

RANDOM = np.random.default_rng(5)
COLOUR = RANDOM.integers(0, 256, (6, 8, 3)).astype("uint8")
ALPHA = RANDOM.integers(0, 256, (6, 8, 4)).astype("uint8")
DEPTH = RANDOM.integers(1, 200, (6, 8)).astype("uint16")


def read(root: Path, **config: Any) -> np.ndarray:
    """All images of the root, in order of name."""
    dataset = source("images", files="**/*.*", labels=None, **config).dataset()
    ((batch),) = dataset.batch(100)
    return np.asarray(batch.numpy())


def pillow(path: Path, channels: int = 3) -> np.ndarray:
    with Image.open(path) as image:
        array = np.asarray(ImageOps.exif_transpose(image).convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    return array.reshape(*array.shape[:2], channels)


FORMATS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "grey.png": (Image.fromarray(COLOUR[..., 0]), {}),
    "bits.png": (Image.fromarray(COLOUR[..., 0] > 99), {}),
    "palette.png": (Image.fromarray(COLOUR).quantize(8), {}),
    "alpha.png": (Image.fromarray(ALPHA), {}),
    "grey.jpg": (Image.fromarray(COLOUR[..., 0]), {}),
    "colour.webp": (Image.fromarray(COLOUR), {"lossless": True}),
    "alpha.webp": (Image.fromarray(ALPHA), {"lossless": True, "exact": True}),
    "colour.tif": (Image.fromarray(COLOUR), {"compression": "tiff_lzw"}),
    "grey.tiff": (Image.fromarray(COLOUR[..., 0]), {}),
    "colour.bmp": (Image.fromarray(COLOUR), {}),
    "grey.bmp": (Image.fromarray(COLOUR[..., 0]), {}),
    "palette.bmp": (Image.fromarray(COLOUR).quantize(8), {}),
    "bits.bmp": (Image.fromarray(COLOUR[..., 0] > 99), {}),
    "colour.gif": (Image.fromarray(COLOUR), {}),
    "colour.ppm": (Image.fromarray(COLOUR), {}),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_format_has_the_pixels_that_pillow_reads(root: Path, channels: int) -> None:
    for name, (image, options) in FORMATS.items():
        image.save(root / name, **options)
    paths = sorted(root.iterdir())
    for path, pixels in zip(paths, read(root, scale=False, channels=channels), strict=True):
        # Of a JPEG libjpeg rounds differently by its settings; the grey of a colour is rounded by each library.
        tolerance = 3 if path.suffix == ".jpg" else 1 if channels == 1 else 0
        np.testing.assert_allclose(pixels, pillow(path, channels), atol=tolerance, err_msg=path.name)


def test_a_bitfields_bmp(root: Path) -> None:
    """16 bits a pixel, 5-6-5, as cameras and embedded systems write it."""
    header = b"BM" + (66 + 4).to_bytes(4, "little") + bytes(4) + (66).to_bytes(4, "little")
    info = (40).to_bytes(4, "little") + (2).to_bytes(4, "little") + (1).to_bytes(4, "little")
    info += (1).to_bytes(2, "little") + (16).to_bytes(2, "little") + (3).to_bytes(4, "little") + bytes(20)
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xF800, 0x07E0, 0x001F))
    (root / "a.bmp").write_bytes(
        header + info + masks + (0xF800).to_bytes(2, "little") + (0x07E0).to_bytes(2, "little")
    )
    (pixels,) = read(root)
    np.testing.assert_array_equal(pixels, [[[1, 0, 0], [0, 1, 0]]])


def test_sixteen_bits_keep_their_values(root: Path) -> None:
    Image.fromarray(DEPTH).save(root / "a.png")
    Image.fromarray(DEPTH).save(root / "b.tif")
    (root / "c.png").write_bytes(tf.io.encode_png(np.repeat(DEPTH[..., None], 3, 2)).numpy())
    np.testing.assert_allclose(read(root, channels=1)[..., 0], np.stack([DEPTH] * 3) / 65535, rtol=1e-6)
    np.testing.assert_array_equal(read(root, channels=3, scale=False)[..., 2], np.stack([DEPTH] * 3))
    small = read(root, channels=1, scale=False, size=[3, 4])
    expected = tf.image.resize(DEPTH[..., None].astype("float32"), [3, 4], antialias=True)
    np.testing.assert_allclose(small[0], expected, rtol=1e-5)


def test_files_of_different_bits_are_scaled_each_by_its_own_range(root: Path) -> None:
    Image.fromarray(np.full((2, 2), 255, "uint8")).save(root / "a.png")
    Image.fromarray(np.full((2, 2), 65535, "uint16")).save(root / "b.png")
    np.testing.assert_array_equal(read(root, channels=1), np.ones((2, 2, 2, 1)))
    fails("b.png and data/a.png have values of different ranges", root, channels=1, scale=False)


def test_floats_have_no_range(root: Path) -> None:
    heights = RANDOM.normal(0, 1000, (6, 8)).astype("float32")
    Image.fromarray(heights).save(root / "a.tif")
    fails("a.tif holds floats or 32-bit integers, whose range is unknown", root, channels=1)
    np.testing.assert_array_equal(read(root, channels=1, scale=False)[0, ..., 0], heights)


def test_bits_that_would_be_cut_off_are_refused(root: Path) -> None:
    """Pillow gives 16-bit colour in TIFF as 8 bits."""
    tag = [(256, 4, 1), (257, 4, 1), (258, 3, 3), (259, 3, 1), (262, 3, 2), (273, 4, 200), (277, 3, 3), (278, 4, 1),
           (279, 4, 6)]  # fmt: skip
    head = b"II*\0" + (8).to_bytes(4, "little") + len(tag).to_bytes(2, "little")
    for number, kind, value in tag:
        count = 3 if number == 258 else 1
        head += number.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little")
        head += (190 if number == 258 else value).to_bytes(4, "little")
    body = head.ljust(190, b"\0") + (16).to_bytes(2, "little") * 3
    (root / "a.tif").write_bytes(body.ljust(200, b"\0") + bytes(6))
    fails("a.tif cannot be decoded: a colour image of 16 bits", root)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(root: Path, suffix: str) -> None:
    pixels = np.kron(COLOUR[:3, :2], np.ones((8, 8, 1), "uint8"))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = pixels if orientation < 5 else pixels.transpose(1, 0, 2)
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(stored).save(root / f"{orientation}.{suffix}", exif=exif, **options)
    read_images = read(root, scale=False)
    assert read_images.shape == (8, 24, 16, 3), "all upright"
    for path, image in zip(sorted(root.iterdir()), read_images, strict=True):
        np.testing.assert_allclose(image, pillow(path), atol=3 if suffix == "jpg" else 0, err_msg=path.name)


def test_sixteen_bits_with_transparency(root: Path) -> None:
    for name, count in (("a", 1), ("b", 3), ("c", 4)):
        pixels = np.repeat(DEPTH[..., None], count, 2)
        (root / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    grey, colour, alpha = read(root, channels=4, scale=False)
    np.testing.assert_array_equal(grey, colour)
    assert set(grey[..., 3].flat) == {65535}
    np.testing.assert_array_equal(alpha, np.repeat(DEPTH[..., None], 4, 2))


def test_several_decoders_in_one_source(root: Path) -> None:
    for index, (name, (image, options)) in enumerate(FORMATS.items()):
        if "jpg" not in name:
            image.save(root / f"{index:02}-{name}", **options)
    Image.fromarray(DEPTH).save(root / "99.png")
    paths = sorted(root.iterdir())
    pixels = read(root)
    for index, path in enumerate(paths[:-1]):
        np.testing.assert_allclose(pixels[index], pillow(path) / np.float32(255), rtol=1e-6, err_msg=path.name)
    np.testing.assert_allclose(pixels[-1, ..., 0], DEPTH / 65535, rtol=1e-6)


# ── files that cannot be read ────────────────────────────────────────────────────────────────────


def fails(says: str, root: Path, **config: Any) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        source("images", files="**/*.*", labels=None, **config).dataset()
    assert caught.value.code is FailureCode.INVALID_DATA
    assert str(root) not in caught.value.message, "no path of the worker"


@pytest.fixture
def jpegs(root: Path) -> Path:
    """Twenty in two folders."""
    for index in range(20):
        folder = root / ("cat" if index < 10 else "dog")
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index:02}.jpg")
    return root


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage(path: Path) -> None:
    """In the middle: headers and end are those of a whole file."""
    Image.fromarray(COLOUR).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
def test_a_file_that_was_cut_is_named(root: Path, suffix: str) -> None:
    (root / "cat").mkdir()
    for index in range(3):
        Image.fromarray(COLOUR).save(root / "cat" / f"{index}.{suffix}")
    cut(root / "cat" / f"1.{suffix}")
    one = source("images", files="cat/*", labels=None)
    with pytest.raises((JobFailure, tf.errors.OpError), match=rf"cat/1\.{suffix} cannot be decoded") as caught:
        list(one.dataset())
    if suffix in ("jpg", "png"):
        assert isinstance(caught.value, JobFailure), "found before anything is trained"


def test_an_image_of_too_many_pixels_is_refused_by_its_header(root: Path) -> None:
    (root / "a.ppm").write_bytes(b"P6 60000 60000 255\n" + bytes(100))
    fails(r"a\.ppm cannot be decoded: Image size \(3600000000 pixels\) exceeds limit", root)


def test_a_file_that_is_damaged_inside_is_named_once_it_is_met(jpegs: Path) -> None:
    damage(jpegs / "dog" / "12.jpg")
    one = source("images", files="*/*.jpg", size=[8, 8])
    with pytest.raises(tf.errors.OpError) as caught:
        list(one.dataset())
    explained = one.explain(caught.value)
    assert isinstance(explained, JobFailure)
    assert "dog/12.jpg cannot be decoded" in explained.message
    assert explained.code is FailureCode.INVALID_DATA
    assert one.explain(tf.errors.InvalidArgumentError(None, None, "Incompatible shapes")) is None


def test_files_are_skipped_up_to_a_bound(jpegs: Path) -> None:
    cut(jpegs / "cat" / "03.jpg")
    damage(jpegs / "dog" / "12.jpg")
    shutil.copy(__file__, jpegs / "dog" / "19.jpg")
    one = source("images", files="*/*.jpg", on_error="skip", size=[8, 8])
    labels = [int(y) for _, y in one.dataset()]
    assert labels == [0] * 9 + [1] * 8
    assert int(one.dataset().cardinality()) == 17, "splits are cut from what is left"
    assert [reason.split()[0] for reason in one.skipped()] == ["cat/03.jpg", "dog/12.jpg", "dog/19.jpg"]
    with pytest.raises(JobFailure, match=r"3 of 20 files cannot be read, max_skipped is 2: cat/03\.jpg"):
        source("images", files="*/*.jpg", on_error="skip", max_skipped=2).dataset()
    with pytest.raises(JobFailure, match="1 of 1 files cannot be read, none is left"):
        source("images", files="cat/03.jpg", on_error="skip").dataset()
