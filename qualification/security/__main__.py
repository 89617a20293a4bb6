"""`make security`: every attempt as a row: what was tried, what refused it, whether it got through.

Uploaded code in the sandbox, archives and model files at the service's door, requests of every kind from every caller.
Ends with 1 where anything got through.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import structlog

from qualification.security import escapes, requests, service_attacks
from qualification.security.attacked_server import housed
from qualification.security.job_beside import job_beside, other_project
from qualification.security.protocol_fuzzer import fuzzed
from tapeworks.schemas.jobs import State
from tests.service.conftest import serving
from tests.support.hostile_uploads import DANGEROUS, HARMFUL
from tests.support.serving import COMPONENTS, spec
from tests.support.serving import serving as serving_all
from tests.support.uploading import make

FUZZ_SECONDS = 60
MISTAKES = {"ends": "import os\nos._exit(0)\n", "blocks": "import time\ntime.sleep(3600)\n",
            "patches": "import keras\nkeras.layers.Dense.call = lambda self, x: x\n"}  # fmt: skip
Row = tuple[str, str, str, float | None, int]
"""Kind, tried, refused by, seconds that another project's job stood still at worst, how many got through."""


def of_sandbox(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """What uploaded code tries."""
    with housed(folder) as house:
        escapes.admitted(house)
        with other_project(house.served) as other, job_beside(other) as beside:
            escapes.job(house, "nothing")  # the sandbox starts, as it would for any job
            for escape in escapes.ESCAPES:
                beside.longest_pause()
                outcome = escape.run(house)
                paused = beside.longest_pause()
                yield "code", escape.tried, outcome.refused, paused, int(outcome.through) + len(beside.wrong)
        noticed = fuzzed(house, seed=1, tries=20, seconds=FUZZ_SECONDS)
        outcomes = ", ".join(f"{count} {what}" for what, count in noticed.outcomes.most_common())
        what = f"speak the protocol wrongly in {noticed.outcomes.total()} jobs"
        yield "code", what, outcomes, noticed.longest_pause, len(noticed.wrong)


def of_components(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Files of the operator's own that would stop their worker."""
    shutil.copytree(COMPONENTS, folder / "components")
    for name, text in MISTAKES.items():
        (folder / "components" / f"{name}.py").write_text(text)
    given = {"TAPEWORKS_WORKER_COMPONENT_SECONDS": "10"}
    with serving_all(folder / "data", "--components", str(folder / "components"), environment=given) as served:
        (worker,) = served.client.workers()
        refused = {Path(one.name).stem: one.reason for one in worker.refused}
        ended = served.run(spec())
        for name in MISTAKES:
            through = name not in refused or ended.state is not State.SUCCEEDED
            yield "component file", name, refused.get(name, "it was taken"), None, int(through)


def of_requests(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """What once held the service."""
    with service_attacks.ground(folder) as ground:
        for attack, refused, wrong, seconds in service_attacks.tried(ground):
            yield "request", attack.tried, wrong or refused, seconds, int(bool(wrong))


def at_the_door(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
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
            report = answer.json()
            yield "upload", tried, f"{answer.status_code} {report.get('detail', '')}", None, int(answer.is_success)
        body = (bytes(8 << 20) for _ in range(64))
        answer = client.post("/v1/jobs", content=body)
        yield (
            "upload",
            "512 MiB to a call that takes one",
            f"{answer.status_code}",
            None,
            int(answer.status_code != 413),
        )
    written = {path for path in folder.parent.rglob("*") if not path.is_relative_to(folder)} - outside_of_it
    yield "upload", "write outside of the service's folder", "nothing was written there", None, len(written)


def over_http(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Requests that Schemathesis makes."""
    with requests.house(folder) as (url, keys):
        for caller, report in requests.sent(url, keys, examples=options.examples).items():
            what = f"{report.requests} requests to {report.operations} operations, {caller}"
            yield (
                "HTTP",
                what,
                "; ".join(report.wrong[:3]) or "no 5xx, nothing of another project",
                None,
                len(report.wrong),
            )


PARTS = (of_sandbox, of_components, at_the_door, of_requests, over_http)


def main() -> int:
    """Print the table; 1 where anything got through."""
    parser = argparse.ArgumentParser(prog="python -m qualification.security")
    parser.add_argument("--examples", type=int, default=60)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    through = 0
    print("| | tried | refused | another's pause | got through |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for part in PARTS:
            folder = Path(name) / part.__name__ / "data"  # what is written beside it is an escape
            folder.mkdir(parents=True)
            for kind, tried, refused, paused, count in part(folder, options):
                through += count
                refused = " ".join(refused.split())[:160].replace("|", "/")
                pause = "" if paused is None else f"{paused:.1f} s"
                print(f"| {kind} | {tried} | {refused} | {pause} | {count} |", flush=True)
    print(f"\ngot through: {through}")
    return 1 if through else 0


if __name__ == "__main__":
    sys.exit(main())
