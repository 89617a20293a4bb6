"""Sends mutated requests to a service of its own for a time, and measures what they do to it."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from benchmarks.claims import answering, free_port
from qualification.http.bystander import Bystander
from qualification.http.mutations import Mutations, Sent
from tests.support.hand_worker import SPEC, HandWorker
from tests.support.postgres import postgres

OPERATOR = "tw_operator_of_the_fuzzed_service"
ANSWER_SECONDS = 60.0
"""An answer that takes longer is none."""
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)


@dataclass
class Report:
    """What came of it."""

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Requests answered with 5xx or not at all, and what the bystander lost."""
    lateness: dict[float, float] = field(default_factory=dict)
    """Upper bound in seconds → how many ticks of the loop were no later."""
    own_lateness: dict[float, float] = field(default_factory=dict)
    """The same of the lateness that the service's own work explains: not that of a machine that is busy otherwise."""
    memory: list[int] = field(default_factory=list)
    """Resident bytes of the service, once a second."""
    delays: list[float] = field(default_factory=list)
    """The bystander's, in seconds."""

    def late(self, share: float, *, own: bool = False) -> float:
        """An upper bound of that quantile of the loop's lateness, in seconds."""
        counts = self.own_lateness if own else self.lateness
        total = max(counts.values(), default=0.0)
        return min((bound for bound, count in counts.items() if count >= share * total), default=0.0)

    @property
    def growth(self) -> int:
        """Bytes by which the last third's peak is above the middle third's."""
        third = len(self.memory) // 3
        return max(self.memory[-third:]) - max(self.memory[third:-third]) if third else 0


def attack(seconds: float, *, seed: int, database: str = "sqlite", threads: int = 8) -> Report:
    """Attack a new service for `seconds`."""
    with TemporaryDirectory() as name, postgres() if database == "postgresql" else nullcontext() as server:
        folder, port = Path(name), free_port()
        given = {
            "DATA_DIR": folder / "data", "PORT": port, "API_KEY": OPERATOR, "ALLOW_PACKAGES": "1",
            "HEADER_SECONDS": 1, "BODY_SECONDS": 1,
        }  # fmt: skip
        if server is not None:
            given["DATABASE_URL"] = server.create()
        environment = os.environ | {f"TAPEWORKS_{key}": str(value) for key, value in given.items()}
        with answering(["-m", "tapeworks_service"], port, "/healthz", folder / "log", environment) as client:
            client.headers["Authorization"] = f"Bearer {OPERATOR}"
            key = _key_of_another_project(environment)
            return _attacked(client, key, seconds, seed, threads)


def _key_of_another_project(environment: dict[str, str]) -> str:
    line = [sys.executable, "-m", "tapeworks.cli.main", "keys", "create", "attacker", "--project", "other", "--json"]
    made = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    return str(json.loads(made.stdout)["key"])


def _attacked(client: httpx.Client, key: str, seconds: float, seed: int, threads: int) -> Report:
    report = Report()
    bystander = Bystander.with_a_job(client)
    beside = threading.Thread(target=bystander.run)
    beside.start()
    try:
        with httpx.Client(base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as other:
            document = other.get("/openapi.json").json()
            own = [HandWorker(other).submit()["id"] for _ in range(3)]
        ids = {"job_id": [*own, "job_0"], "attempt": ["1", "2"], "kind": ["loss", "model"], "name": ["focal", "mlp"]}
        before = _lateness(client), _lateness(client, "own_")
        began = time.monotonic()
        attackers = []
        for number in range(threads):
            made = Mutations(document, ids, SPEC, key, random.Random(seed * 1000 + number))
            attackers.append(threading.Thread(target=_send, args=(client, made, began + seconds, report)))
        for one in attackers:
            one.start()
        _watch_memory(client.base_url.port, attackers, report)
        report.seconds = time.monotonic() - began
        after = _lateness(client), _lateness(client, "own_")
    finally:
        bystander.stop()
        beside.join()
    report.lateness, report.own_lateness = (
        {bound: count - earlier[bound] for bound, count in later.items()}
        for earlier, later in zip(before, after, strict=True)
    )
    report.delays = bystander.delays
    report.wrong += bystander.wrong
    return report


def _watch_memory(port: int | None, attackers: list[threading.Thread], report: Report) -> None:
    (service,) = (one for one in psutil.Process().children() if _listens(one, port))
    while busy := [one for one in attackers if one.is_alive()]:
        report.memory.append(service.memory_info().rss)
        busy[0].join(1.0)


def _listens(process: psutil.Process, port: int | None) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections("tcp"))


def _lateness(client: httpx.Client, whose: str = "") -> dict[float, float]:
    text = client.get("/metrics").text
    found = re.findall(rf'tapeworks_loop_{whose}lateness_seconds_bucket\{{le="([^"]+)"\}} (\S+)', text)
    return {float(bound): float(count) for bound, count in found}


def _send(client: httpx.Client, made: Mutations, until: float, report: Report) -> None:
    address = (client.base_url.host, client.base_url.port or 80)
    try:
        while time.monotonic() < until:
            _send_one(address, made.request(), report)
    except Exception as error:
        report.wrong.append(f"the fuzzer failed: {error!r}")
        raise


def _send_one(address: tuple[str, int], sent: Sent, report: Report) -> None:
    whole = sent.encoded()
    statuses = _exchanged(address, whole, waits=sent.cut is None)
    report.statuses.update(statuses)
    if any(status.startswith("5") or status == "none" for status in statuses):
        report.wrong.append(f"{', '.join(statuses)} for {whole[:600]!r}")


def _exchanged(address: tuple[str, int], whole: bytes, *, waits: bool) -> list[str]:
    """Send a request as it is; the statuses that come back, `none` where nothing does. One that is cut is left."""
    received = b""
    with ExitStack() as stack:
        made = stack.enter_context(socket.create_connection(address, timeout=ANSWER_SECONDS))
        streams = b"text/event-stream" in whole or b"wait=" in whole
        try:
            made.sendall(whole)
            if not waits:
                return ["left"]
            made.settimeout(0.3 if streams else ANSWER_SECONDS)
            while chunk := made.recv(1 << 18):
                received = (received + chunk)[-(1 << 22) :]
        except TimeoutError:
            if not received and not streams:
                return ["none"]
        except OSError:
            pass  # closed before all was sent
    found: list[Any] = _STATUS.findall(received)
    return [one.decode() for one in found] or ["closed"]
