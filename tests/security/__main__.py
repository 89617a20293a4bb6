"""`make security`: every attempt as a row: what was tried, what refused it, whether it got through.

Uploaded code in the sandbox, archives and model files at the service's door, requests of every kind from every caller.
Ends with 1 where anything got through.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import structlog

from tests.security import escapes, outside
from tests.security.house import housed
from tests.security.protocol_fuzzer import fuzzed
from tests.service.conftest import serving
from tests.service.test_assets import DANGEROUS, HARMFUL
from tests.service.uploading import make

FUZZ_SECONDS = 60
Row = tuple[str, str, str, int]
"""Kind, tried, refused by, how many got through."""


def of_sandbox(folder: Path) -> Iterator[Row]:
    """What uploaded code tries."""
    with housed(folder) as house:
        escapes.admitted(house)
        for escape in escapes.ESCAPES:
            outcome = escape.run(house)
            yield "code", escape.tried, outcome.refused, int(outcome.through)
        noticed = fuzzed(house, seed=1, tries=20, seconds=FUZZ_SECONDS)
        told = ", ".join(f"{count} {what}" for what, count in noticed.outcomes.most_common())
        what = f"speak the protocol wrongly in {noticed.outcomes.total()} jobs beside another project's"
        yield "code", what, f"noticed by no other job: {told}", len(noticed.wrong)


def at_the_door(folder: Path) -> Iterator[Row]:
    """Archives, arrays and model files that are dangerous to open."""
    from tapeworks_service.settings import ServiceSettings

    outside_of_it = {path for path in folder.parent.rglob("*") if not path.is_relative_to(folder)}
    with (
        serving(ServiceSettings(data_dir=folder, port=0)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        sent = [(f"data: {name}", make(client, "dataset", data, name="bad", format=format))
                for name, (format, data, _) in DANGEROUS.items()]  # fmt: skip
        sent += [(f"model: {name}", make(client, "bundle", data, name="bad")) for name, (data, _) in HARMFUL.items()]
        for tried, answer in sent:
            told = answer.json()
            yield "upload", tried, f"{answer.status_code} {told.get('detail', '')}", int(answer.is_success)
        body = (bytes(8 << 20) for _ in range(64))
        answer = client.post("/v1/jobs", content=body)
        yield "upload", "512 MiB to a call that takes one", f"{answer.status_code}", int(answer.status_code != 413)
    written = {path for path in folder.parent.rglob("*") if not path.is_relative_to(folder)} - outside_of_it
    yield "upload", "write outside of the service's folder", "nothing was written there", len(written)


def over_http(folder: Path, examples: int) -> Iterator[Row]:
    """Requests that Schemathesis makes."""
    with outside.house(folder) as (url, keys):
        for whose, told in outside.sent(url, keys, examples=examples).items():
            what = f"{told.requests} requests to {told.operations} operations, {whose}"
            yield "HTTP", what, "; ".join(told.wrong[:3]) or "no 5xx, nothing of another project", len(told.wrong)


def main() -> int:
    """Print the table; 1 where anything got through."""
    parser = argparse.ArgumentParser(prog="python -m tests.security")
    parser.add_argument("--examples", type=int, default=60)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    through = 0
    print("| | tried | refused | got through |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        rooms = [Path(name) / part for part in ("house", "door/service", "http")]
        for room in rooms:
            room.mkdir(parents=True)
        for rows in (of_sandbox(rooms[0]), at_the_door(rooms[1]), over_http(rooms[2], options.examples)):
            for kind, tried, refused, count in rows:
                through += count
                print(
                    f"| {kind} | {tried} | {' '.join(refused.split())[:160].replace('|', '/')} | {count} |", flush=True
                )
    print(f"\ngot through: {through}")
    return 1 if through else 0


if __name__ == "__main__":
    sys.exit(main())
