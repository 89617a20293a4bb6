"""Uploaded code that tries to get out gets nowhere, and the worker goes on."""

import pytest

from qualification.security import escapes
from qualification.security.attacked_server import House
from tapeworks.schemas.jobs import State
from tests.support.tiers import some


@pytest.fixture(scope="module")
def hostile(house: House) -> House:
    """The server, with the hostile package admitted."""
    escapes.admitted(house)
    return house


LONG = {"fork bomb", "memory", "tmp", "kill all", "memfds", "nested", "flood", "bomb"}


@pytest.mark.slow
@pytest.mark.parametrize("escape", some(escapes.ESCAPES, lambda one: one.name not in LONG, ids=lambda one: one.name))
def test_an_attempt_to_get_out_is_refused(hostile: House, escape: escapes.Escape) -> None:
    outcome = escape.run(hostile)
    assert not outcome.through, outcome.refused


def test_the_worker_and_its_key_are_as_before(hostile: House) -> None:
    ended, told = escapes.job(hostile, "nothing")
    assert ended.state is State.SUCCEEDED, ended.failure
    assert told == {"reached": ""}
    (worker,) = hostile.client.workers()
    assert (worker.state, worker.packages) == ("ready", True)
    assert set(worker.sandbox.values()) == {"on"}
