"""Images inside other files: bytes of PNG, JPEG and the like in a column of Parquet or a feature of TFRecord.

Pillow decodes them. Hugging Face's `{bytes, path}` is a column of such bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks_workers.components.sources.image_files import UNKNOWN_RANGE, BrokenImage, from_bytes

_OPTIONS = ("size", "channels", "scale")
FAILED = "an encoded image"
"""What the errors of `tensor` have in common."""


@dataclass(frozen=True)
class EncodedImage:
    """How the images of a column are read; as the arguments of the source `images`."""

    name: str
    size: tuple[int, int] | None = None
    """Height and width to resize to; None: all have one size."""
    channels: int = 3
    scale: bool = True

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> EncodedImage:
        """From the options of a spec. Raises ValueError."""
        unknown = set(options) - set(_OPTIONS)
        if unknown:
            raise ValueError(f"images of {name!r}: unknown key {min(unknown)!r}; it takes {', '.join(_OPTIONS)}")
        size, channels, scale = options.get("size"), options.get("channels", 3), options.get("scale", True)
        if size is not None and (
            not isinstance(size, list | tuple)
            or len(size) != 2
            or not all(isinstance(one, int) and one > 0 for one in size)
        ):
            raise ValueError(f"images of {name!r}: size is the height and width in pixels, not {size}")
        if channels not in (1, 3, 4) or not isinstance(scale, bool):
            raise ValueError(f"images of {name!r}: channels is 1, 3 or 4 and scale true or false")
        return cls(name, None if size is None else (size[0], size[1]), channels, scale)

    def decoded(self, data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
        """The pixels `(height, width, channels)`, float32. Raises BrokenImage, also for another size than `size`."""
        pixels, largest = from_bytes(data, self.channels)
        if self.scale and largest == UNKNOWN_RANGE:
            raise BrokenImage('holds floats or 32-bit integers, whose range is unknown; give "scale": false')
        if size is not None and pixels.shape[:2] != tuple(size):
            raise BrokenImage(
                f"has the size {pixels.shape[0]} x {pixels.shape[1]}, the first {size[0]} x {size[1]}; give size"
            )
        pixels = pixels.astype(np.float32)
        return pixels / np.float32(largest) if self.scale else pixels

    def shape_of(self, first: bytes) -> tuple[int, int]:
        """Height and width of all images, by the first where the options do not say. Raises BrokenImage."""
        if self.size is not None:
            return self.size
        height, width, _ = self.decoded(first).shape
        return height, width

    def tensor(self, data: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        """The image `(*size, channels)` of one scalar of bytes, in the job's float."""

        def decode(given: bytes) -> np.ndarray:
            try:
                return self.decoded(given, None if self.size is not None else size)
            except BrokenImage as error:
                raise ValueError(f"invalid data: {FAILED} of {self.name!r} {error}") from error

        # Stateless, so the iterator can be saved.
        pixels = tf.ensure_shape(
            tf.numpy_function(decode, [data], tf.float32, stateful=False), [None, None, self.channels]
        )
        if self.size is not None:
            pixels = tf.image.resize(pixels, size, antialias=True)
        return tf.ensure_shape(tf.cast(pixels, keras.config.floatx()), [*size, self.channels])


def with_images(
    dataset: tf.data.Dataset, places: Mapping[tuple[Any, ...], Callable[[tf.Tensor], tf.Tensor]]
) -> tf.data.Dataset:
    """The dataset, its elements decoded at these places.

    Args:
        places: keys that lead into the element, (0, "image"), → the decoding of what stands there.
    """

    @tf.autograph.experimental.do_not_convert
    def decode(*element: Any) -> Any:
        parts: Any = element
        for place, function in places.items():
            parts = _replaced(parts, place, function)
        return parts if len(parts) > 1 else parts[0]

    decoded = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if any(isinstance(spec, tf.RaggedTensorSpec) for spec in tf.nest.flatten(dataset.element_spec)):
        # To a map a row of any length is a dense tensor; as such it could not be batched any more.
        return decoded.ragged_batch(1).unbatch()
    return decoded


def _replaced(value: Any, place: tuple[Any, ...], function: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    if not place:
        return function(value)
    key, *rest = place
    new = _replaced(value[key], tuple(rest), function)
    if isinstance(value, Mapping):
        return {**value, key: new}
    return (*value[:key], new, *value[key + 1 :])
