"""The fault table: its rows in order, what each needs, and how often it is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from qualification.faults import bad_input, killed_processes, load, outages, storage
from qualification.faults.outcome import Outcome
from qualification.faults.worlds import World

BOTH = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Row:
    """A row: `run` gives its outcome in a world of the kind `world`."""

    name: str
    run: Callable[[World, int], Outcome]
    full: int
    """Times in `make faults`."""
    short: int = 1
    """Times in `make test`."""
    world: str = "plain"
    databases: tuple[str, ...] = BOTH
    in_tests: tuple[str, ...] = ("sqlite",)
    """Databases with which the tests run it."""


ROWS = (
    Row("runner", killed_processes.runner_killed, full=50, in_tests=()),
    Row("checkpoint", killed_processes.checkpoint_killed, full=50, in_tests=()),
    Row("agent", killed_processes.agent_killed, full=3, in_tests=()),
    Row("zygotes", killed_processes.zygotes_killed, full=3, in_tests=()),
    Row("stopped", killed_processes.worker_stopped, full=3, in_tests=()),
    Row("handed-on", killed_processes.handed_on, full=5, in_tests=()),
    Row("service", outages.service_killed, full=3, in_tests=()),
    Row("away", partial(outages.database_away, seconds=5.0), full=0, in_tests=("postgresql",)),
    Row("away-20", partial(outages.database_away, seconds=20.0), full=1, short=0, in_tests=()),
    Row("away-60", partial(outages.database_away, seconds=60.0), full=1, short=0, in_tests=()),
    Row("worker-full", storage.worker_full, full=2, world="small", in_tests=()),
    Row("store-full", storage.store_full, full=2, world="small", in_tests=()),
    Row("database-full", storage.database_full, full=2, world="small", databases=("sqlite",), in_tests=()),
    Row("read-only", storage.store_read_only, full=2, world="small", in_tests=()),
    Row("checkpoint-flipped", storage.checkpoint_flipped, full=5, in_tests=()),
    Row("bundle-flipped", storage.bundle_flipped, full=5, in_tests=()),
    Row("same-post", bad_input.same_post, full=5, in_tests=("postgresql",)),
    Row("poison", bad_input.poison, full=3),
    Row("memory", bad_input.out_of_memory, full=3, in_tests=()),
    Row("clock", bad_input.wrong_clock, full=2, in_tests=()),
    Row("queue", load.queue, full=10_000, short=2_000, world="bare", in_tests=()),
    Row("pollers", load.pollers, full=1_000, short=200, world="bare", in_tests=()),
)
