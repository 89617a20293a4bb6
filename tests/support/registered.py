"""Fixtures: the built-in components, registered once; what a test registers is forgotten after it."""

from collections.abc import Iterator

import keras
import pytest

from tapeworks.components.loading import load_installed
from tapeworks.components.registry import registry


@pytest.fixture(autouse=True, scope="session")
def built_in() -> None:
    """Load them."""
    load_installed()


@pytest.fixture(autouse=True)
def as_it_was(built_in: None) -> Iterator[None]:
    """The registry, Keras' names, its dtype policy, precision and layer counters are those of before."""
    components, refused = dict(registry._components), list(registry.refused)
    keras.config.set_floatx("float32")  # whatever a job of another test trained in
    custom, policy = dict(keras.saving.get_custom_objects()), keras.config.dtype_policy()
    yield
    registry._components = components
    registry.refused = refused
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(custom)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    keras.utils.clear_session(free_memory=False)
