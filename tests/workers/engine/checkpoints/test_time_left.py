"""The time left, from the pace of the last minute."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from tapeworks_workers.engine.checkpoints.counters import TimeLeft


class Steps:
    """A training whose clock is turned by hand."""

    def __init__(self, total: int | None) -> None:
        self.now, self.step, self.total = 100.0, 0, total
        self.left = TimeLeft(lambda: self.now)

    def after(self, seconds: float, steps: int) -> float | None:
        self.now, self.step = self.now + seconds, self.step + steps
        return self.left.at(self.step, self.total)


def largest_jump(estimates: Iterable[float | None]) -> float:
    known = [one for one in estimates if one is not None]
    return max(abs(after - before) for before, after in itertools.pairwise(known))


def test_a_steady_pace_counts_down() -> None:
    training = Steps(1000)
    assert [training.after(1, 10) for _ in range(3)] == [None, None, None], "too little was seen"
    assert training.after(1, 10) == pytest.approx(96)
    for second in range(5, 100):
        assert training.after(1, 10) == pytest.approx(100 - second)
    assert training.after(1, 10) == 0


def test_a_slow_call_and_a_validation_do_not_make_it_jump() -> None:
    training = Steps(10_000)
    for _ in range(60):
        training.after(1, 20)
    estimates = [training.after(1, 0 if second == 3 else 20) for second in range(10)]
    assert largest_jump(estimates) < 2
    before = training.after(1, 20)
    paused = training.after(20, 0)  # a validation
    assert before is not None
    assert paused is not None
    assert paused < 1.6 * before, "two thirds of the pace: a third of the minute was no training"
    assert largest_jump(training.after(1, 20) for _ in range(40)) < 15


def test_a_new_pace_is_taken_over_within_a_minute() -> None:
    training = Steps(100_000)
    for _ in range(120):
        training.after(1, 100)
    for _ in range(90):
        estimate = training.after(1, 10)
    assert estimate == pytest.approx((100_000 - training.step) / 10, rel=0.1)


def test_without_an_end_nothing_is_said() -> None:
    training = Steps(None)
    assert {training.after(1, 10) for _ in range(10)} == {None}


def test_steps_that_were_undone_start_the_pace_anew() -> None:
    training = Steps(1000)
    for _ in range(10):
        training.after(1, 10)
    assert training.after(1, -50) is None
    assert training.after(5, 50) == pytest.approx((1000 - training.step) / 10, rel=0.2)
