"""The built-in components, registered once; what a test registers is forgotten after it."""

from collections.abc import Iterator

import keras
import pytest

from tapeworks.components import load_installed, registry


def pytest_configure(config: pytest.Config) -> None:
    # Keras 3.15 converts variables with np.array(variable), which NumPy 2.4 warns about: not ours to mend.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )


@pytest.fixture(autouse=True, scope="session")
def built_in() -> None:
    """Load them."""
    load_installed()


@pytest.fixture(autouse=True)
def as_it_was(built_in: None) -> Iterator[None]:
    """The registry, Keras' names, its dtype policy and its layer counters are those of before."""
    components, refused = dict(registry._components), list(registry.refused)
    custom, policy = dict(keras.saving.get_custom_objects()), keras.config.dtype_policy()
    yield
    registry._components = components
    registry.refused = refused
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(custom)
    keras.config.set_dtype_policy(policy)
    keras.utils.clear_session(free_memory=False)
