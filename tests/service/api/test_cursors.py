"""Cursors of lists: they lead on, and say nothing."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from tapeworks_service.http.cursors import Cursors
from tapeworks_service.problems import Problem
from tests.support.hand_worker import HandWorker


def test_a_cursor_opens_in_its_own_list_alone() -> None:
    cursors = Cursors(b"s" * 32)
    for place in (0, 1, 10**12):
        cursor = cursors.write("default", "jobs", place)
        assert cursors.read("default", "jobs", cursor) == place
        for project, listed in (("other", "jobs"), ("default", "dataset")):
            with pytest.raises(Problem):
                cursors.read(project, listed, cursor)
        with pytest.raises(Problem):
            Cursors(b"t" * 32).read("default", "jobs", cursor)
    for odd in ("", "1", "é", "A" * 31, "A" * 32, "=" * 40, "am9iczox"):
        with pytest.raises(Problem):
            cursors.read("default", "jobs", odd)


def test_cursors_of_neighbours_have_nothing_in_common(api: httpx.Client, worker: HandWorker) -> None:
    for _ in range(3):
        worker.submit()
    pages = [api.get("/v1/jobs", params={"limit": 1}).json()["next"] for _ in range(2)]
    assert pages[0] != pages[1], "the same place, another word"
    raw: Any = [base64.urlsafe_b64decode(page) for page in pages]
    assert b"jobs" not in raw[0]
    assert api.get("/v1/jobs", params={"limit": 1, "after": pages[0]}).is_success
    assert api.get("/v1/jobs", params={"after": base64.urlsafe_b64encode(b"jobs:5").decode()}).status_code == 422
    for listed in ("datasets", "packages", "bundles"):
        for odd in ("5", pages[0]):
            assert api.get(f"/v1/{listed}", params={"after": odd}).status_code == 422
