"""What every test needs: a quiet TensorFlow on the CPU, and Keras on the TensorFlow backend."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest
import structlog

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as workers have it: what is trained here is verified there
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
for variable in [name for name in os.environ if name.startswith("TAPEWORKS_")]:
    # A developer's own settings must not reach the servers and workers that tests start.
    del os.environ[variable]
# What workers keep for each other is this run's alone: a developer's own cache has no part in it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tapeworks-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# A service in a thread logs while a command's standard output is read in the same process.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))


@pytest.fixture(autouse=True)
def _plain_precision() -> None:
    """A job that a test trained in its own process left its precision there: the next test begins with Keras' own."""
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "config"):
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.fixture
def logging_kept() -> Iterator[None]:
    """For a test that runs a command in this process which configures logging: other tests log as before."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True, scope="module")
def _small_heap() -> None:
    """What modules and caches hold is left out of later collections.

    Keras collects garbage in `clear_session`. With the heap of TensorFlow and of hundreds of traced functions, these
    collections took 40 % of the CPU time of the suite.
    """
    gc.collect()
    gc.freeze()
