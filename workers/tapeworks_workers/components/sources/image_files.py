"""Image files: which decoder reads a file, chosen by its first bytes, and the decoding itself.

TensorFlow decodes PNG (8 and 16 bits) and JPEG, in parallel with the training. Pillow decodes GIF, BMP, WebP, TIFF,
PPM, and what TensorFlow cannot give four channels.

`examine(path, channels)` gives the `ImageFile`, `decoded(file, …)` its pixels now, `graph_decoder(files, channels)` the
function of a tf.data map. Both apply the orientation by EXIF.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tapeworks_workers.components.sources.unpacked_size import MAX_PIXELS, check_pixels

FORMATS = "PNG, JPEG, GIF, BMP, WebP, TIFF or PPM"
TENSORFLOW, TENSORFLOW_16, PILLOW = range(3)
"""Decoders."""
UNKNOWN_RANGE = float("inf")
"""Largest value of floats and of 32-bit integers: no file states it."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PILLOW_HEADS = (b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_WITH_ALPHA = (b"\x08\x02", b"\x08\x06", b"\x10\x00", b"\x10\x02", b"\x10\x04", b"\x10\x06")
"""Bits and colour type of the PNG files that TensorFlow decodes to four channels: of fewer bits its alpha is wrong."""
_PILLOW_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BITS_PER_SAMPLE = 258
_EXIF_ORIENTATION = 0x0112
_END_BYTES = 64


class BrokenImage(ValueError):
    """A file that is no image, or cannot be decoded; the message names the file."""


@dataclass(frozen=True)
class ImageFile:
    """An image file and how it is read."""

    path: Path
    decoder: int
    largest: float = 255.0
    """The largest value that a pixel can have."""
    orientation: int = 1
    """By EXIF, 1 to 8, where TensorFlow decodes: Pillow applies it itself."""
    complete: bool = True
    """Whether it ends as its format says; where not, it may be cut."""

    @property
    def name(self) -> str:
        """The file and its folder, for messages."""
        return named(self.path)


def named(path: Path) -> str:
    """A file and its folder, for messages."""
    return f"{path.parent.name}/{path.name}"


# ── which decoder ────────────────────────────────────────────────────────────────────────────────


def examine(path: Path, channels: int) -> ImageFile:
    """Read the headers of a file. Raises BrokenImage, and JobFailure for more pixels than a picture may have."""
    check_pixels(path)
    with path.open("rb") as file:
        head = file.read(26)
        if head.startswith(_PNG) and (channels != 4 or head[24:26] in _WITH_ALPHA):
            decoder, largest = (TENSORFLOW_16, 65535.0) if head[24:25] == b"\x10" else (TENSORFLOW, 255.0)
            return ImageFile(path, decoder, largest, _png_orientation(file), b"IEND" in _end(file))
        if head.startswith(_JPEG) and channels != 4:
            orientation = _jpeg_orientation(file)
            return ImageFile(path, TENSORFLOW, 255.0, orientation, _end(file).rstrip(b"\0").endswith(b"\xff\xd9"))
    if not head.startswith((_PNG, _JPEG, *_PILLOW_HEADS)):
        raise BrokenImage(f"{named(path)} is no {FORMATS}")
    return ImageFile(path, PILLOW, by_pillow(path, _largest), complete=False)


def _end(file: BinaryIO) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES))
    return file.read()


def _png_orientation(file: BinaryIO) -> int:
    """From the chunk eXIf before the pixels."""
    file.seek(len(_PNG))
    while len(header := file.read(8)) == 8 and header[4:] not in (b"IDAT", b"IEND"):
        (length,) = struct.unpack(">I", header[:4])
        if header[4:] == b"eXIf":
            return _orientation(file.read(length))
        file.seek(length + 4, 1)
    return 1


def _jpeg_orientation(file: BinaryIO) -> int:
    """From the first APP1 segment that holds EXIF."""
    file.seek(2)
    while len(header := file.read(4)) == 4 and header[0] == 0xFF and header[1] not in (0xD9, 0xDA):
        length = struct.unpack(">H", header[2:])[0] - 2
        if header[1] == 0xE1:
            segment = file.read(max(length, 0))
            if segment.startswith(b"Exif\0\0"):
                return _orientation(segment[6:])
        elif length > 0:
            file.seek(length, 1)
    return 1


def _orientation(exif: bytes) -> int:
    """The tag Orientation of the first directory; 1 where there is none that means something."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", exif, place)
        if tag == _EXIF_ORIENTATION:
            return value if 1 <= value <= 8 else 1
    return 1


def _largest(image: Image.Image) -> float:
    """The largest value that the pixels of an image can have. Raises ValueError where Pillow would cut bits off."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 65535.0
    if image.mode in ("I", "F"):
        return UNKNOWN_RANGE
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    if max(bits) > 8:
        raise ValueError(f"a colour image of {max(bits)} bits; save it as PNG of 16 bits")
    return 255.0


# ── decoding ─────────────────────────────────────────────────────────────────────────────────────


def decoded(file: ImageFile, channels: int) -> np.ndarray:
    """The pixels `(height, width, channels)` as stored, upright. Raises BrokenImage."""
    if file.decoder == PILLOW:
        return by_pillow(file.path, lambda image: _pixels(image, channels))
    dtype = tf.uint16 if file.decoder == TENSORFLOW_16 else tf.uint8
    try:
        image = _by_tensorflow(str(file.path), channels, dtype)
    except tf.errors.OpError as error:
        raise BrokenImage(f"{file.name} cannot be decoded: {_said(error)}") from error
    return _upright(image, tf.constant(file.orientation)).numpy()


def check(file: ImageFile, channels: int) -> str | None:
    """Why a file cannot be decoded; None where it can."""
    try:
        decoded(file, channels)
    except BrokenImage as error:
        return str(error)
    return None


def graph_decoder(files: Sequence[ImageFile], channels: int) -> Callable[[Any, Any, Any], tf.Tensor]:
    """(path, decoder, orientation) → float32 pixels, for these files: a graph holds the decoders that they need."""
    kinds = sorted({file.decoder for file in files})
    turned = any(file.orientation != 1 for file in files)
    wide = any(file.decoder == PILLOW and file.largest > 255 for file in files)

    def with_pillow(path: tf.Tensor) -> tf.Tensor:
        # Stateless, so the iterator can be saved.
        dtype = np.float32 if wide else np.uint8
        pixels = tf.numpy_function(
            lambda name: _for_graph(Path(name.decode()), channels).astype(dtype, copy=False),
            [path],
            tf.as_dtype(dtype),
            stateful=False,
        )
        return tf.ensure_shape(pixels, [None, None, channels])

    ways: dict[int, Callable[[Any], tf.Tensor]] = {
        TENSORFLOW: lambda path: _by_tensorflow(path, channels, tf.uint8),
        TENSORFLOW_16: lambda path: _by_tensorflow(path, channels, tf.uint16),
        PILLOW: with_pillow,
    }

    def way(kind: int, path: tf.Tensor) -> tf.Tensor:
        return tf.cast(ways[kind](path), tf.float32)

    @tf.autograph.experimental.do_not_convert
    def decode(path: tf.Tensor, decoder: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
        if len(kinds) == 1:
            image = way(kinds[0], path)
        else:  # a branch for each number from 0 on, as switch_case wants it
            used = [kind if kind in kinds else kinds[0] for kind in sorted(ways)]
            image = tf.switch_case(decoder, [functools.partial(way, kind, path) for kind in used])
        return _upright(image, orientation) if turned else image

    return decode


def _by_tensorflow(path: Any, channels: int, dtype: tf.DType) -> tf.Tensor:
    return tf.io.decode_image(tf.io.read_file(path), channels, dtype, expand_animations=False)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """An image turned and mirrored as EXIF says."""

    def when(values: Sequence[int], turned: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.reduce_any(tf.equal(orientation, values)), lambda: turned(image), lambda: image)

    image = when((5, 6, 7, 8), lambda one: tf.transpose(one, [1, 0, 2]), image)
    image = when((2, 3, 6, 7), lambda one: tf.reverse(one, [1]), image)
    return when((3, 4, 7, 8), lambda one: tf.reverse(one, [0]), image)


def _for_graph(path: Path, channels: int) -> np.ndarray:
    try:
        return by_pillow(path, lambda image: _pixels(image, channels))
    except BrokenImage as error:
        raise ValueError(f"invalid data: {error}") from error


def from_bytes(data: bytes, channels: int) -> tuple[np.ndarray, float]:
    """The pixels `(height, width, channels)` of an encoded image, upright, and the largest value that they can have.

    Raises BrokenImage, whose message goes on after the name of the image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are allowed")
            return _pixels(image, channels), _largest(image)
    except Exception as error:  # the decoders of Pillow raise nearly anything for broken bytes
        raise BrokenImage(f"cannot be decoded: {_said(error).partition(' <_io')[0]}") from error


def by_pillow(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    """What `read` gives for the opened image. Raises BrokenImage."""
    try:
        with Image.open(path, formats=_PILLOW_FORMATS) as image:
            return read(image)
    except Exception as error:  # the decoders of Pillow raise nearly anything for a broken file
        raise BrokenImage(f"{named(path)} cannot be decoded: {_said(error)}") from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Of the first frame or page."""
    largest = _largest(image)
    turned = ImageOps.exif_transpose(image) or image
    if largest == 255.0:
        if turned.mode == "P" and "transparency" in turned.info:
            turned = turned.convert("RGBA")
        array = np.asarray(turned.convert(_MODES[channels]))
        return array if channels > 1 else array[..., None]
    if channels == 4:
        raise ValueError("a grey image of more than 8 bits has no four channels; give channels 1 or 3")
    return np.repeat(np.asarray(turned).astype(np.float32)[..., None], channels, axis=2)


def _said(error: BaseException) -> str:
    """What an error says, without TensorFlow's names of nodes and Pillow's paths of this machine."""
    message = error.message if isinstance(error, tf.errors.OpError) else str(error)
    message = message.partition("}} ")[2] or message
    return message.partition(" [Op:")[0].partition(" '/")[0].strip() or type(error).__name__
