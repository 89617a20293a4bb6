"""Masks beside images: a class for each pixel, in a second image with the same name.

`paired(images, masks)` finds the mask of each image, `decoded(path)` its classes, `in_graph` the same inside a
tf.data map. Values are those of the file: nothing is scaled, and a palette gives its indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from tapeworks_workers.components.sources.image_files import BrokenImage, by_pillow, named
from tapeworks_workers.components.sources.unpacked_size import check_pixels

_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Of Pillow: images of one integer a pixel."""
_SHOWN = 3


def paired(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    """The mask of each image: of the same name without the suffix, of several the one in a folder of the same name.

    Raises BrokenImage for images without a mask, or with several.
    """
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(mask.stem, []).append(mask)
    found: dict[Path, Path] = {}
    missing: list[Path] = []
    for image in images:
        candidates = by_stem.get(image.stem, [])
        if len(candidates) > 1:
            candidates = [mask for mask in candidates if mask.parent.name == image.parent.name] or candidates
        if len(candidates) > 1:
            raise BrokenImage(f"{named(image)} has several masks: {', '.join(map(named, candidates[:_SHOWN]))}")
        if candidates:
            found[image] = candidates[0]
        else:
            missing.append(image)
    if missing:
        shown = ", ".join(map(named, missing[:_SHOWN])) + (", …" if len(missing) > _SHOWN else "")
        raise BrokenImage(f"{len(missing)} of {len(images)} images have no mask of the same name: {shown}")
    users: dict[Path, Path] = {}
    for image, mask in found.items():
        if (other := users.setdefault(mask, image)) != image:
            raise BrokenImage(f"{named(other)} and {named(image)} have one mask, {named(mask)}")
    return found


def decoded(path: Path) -> np.ndarray:
    """The classes `(height, width)`, int32. Raises BrokenImage."""
    check_pixels(path)
    return by_pillow(path, _classes)


def _classes(image: Image.Image) -> np.ndarray:
    if image.mode not in _MODES:
        raise ValueError(
            f"a mask has one integer for each pixel, and this image is {image.mode}; save it as grey or with a palette"
        )
    return np.asarray(image).astype(np.int32)


def check(path: Path) -> str | None:
    """Why a mask cannot be decoded; None where it can."""
    try:
        decoded(path)
    except BrokenImage as error:
        return str(error)
    return None


def _for_graph(path: bytes) -> np.ndarray:
    try:
        return decoded(Path(path.decode()))
    except BrokenImage as error:
        raise ValueError(f"invalid data: {error}") from error


def in_graph(path: tf.Tensor, shape: tf.Tensor, size: tuple[int, int], message: tf.Tensor) -> tf.Tensor:
    """The mask `(*size, 1)` of an image of this shape, int32; of another size by the nearest pixel.

    `message`: of the error where the mask has another shape than its image.
    """
    # Stateless, so the iterator can be saved.
    mask = tf.ensure_shape(tf.numpy_function(_for_graph, [path], tf.int32, stateful=False), [None, None])
    same = tf.reduce_all(tf.shape(mask) == shape[:2])
    with tf.control_dependencies([tf.debugging.Assert(same, [message])]):
        mask = tf.identity(mask)[..., None]
    return tf.ensure_shape(tf.image.resize(mask, size, method="nearest"), [*size, 1])
