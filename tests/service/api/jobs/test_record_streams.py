"""Server-sent events: complete, in order, resumed without loss or repeat, ended with the job."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx_sse

from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.support.hand_worker import HandWorker

STREAM = {"Accept": "text/event-stream"}


def read(client: httpx.Client, path: str, *, last: int | None = None, stop_after: int | None = None) -> list[Any]:
    """The messages of one connection: until it ends, or until so many were read."""
    headers = STREAM if last is None else {**STREAM, "Last-Event-ID": str(last)}
    messages: list[Any] = []
    with httpx_sse.connect_sse(client, "GET", path, headers=headers) as source:
        assert source.response.status_code == 200
        for message in source.iter_sse():
            if message.data:
                messages.append((int(message.id), message.json()))
            if stop_after is not None and len(messages) == stop_after:
                break
    return messages


def line(text: str) -> dict[str, Any]:
    return {"record": "log", "stream": "stdout", "text": text}


def test_a_stream_tells_what_happens_until_the_job_has_finished(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, api, f"/v1/jobs/{job['id']}/events")
        lease = worker.lease()
        lease.state("running", "training")
        lease.records({"record": "event", "type": "epoch", "data": {"epoch": 1}})
        lease.finish("succeeded")
        messages = reading.result(20)
    assert [seq for seq, _ in messages] == [1, 2, 3, 4, 5]
    assert [event["seq"] for _, event in messages] == [1, 2, 3, 4, 5]
    told = [event["data"].get("state", event["type"]) for _, event in messages]
    assert told == ["queued", "starting", "running", "epoch", "succeeded"]
    assert [event for _, event in messages] == api.get(f"/v1/jobs/{job['id']}/events").json()["data"]


def test_a_broken_stream_resumes_without_loss_or_repeat(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    path = f"/v1/jobs/{job['id']}/logs"
    finished = threading.Event()

    def write() -> None:
        for number in range(60):
            lease.records(*(line(f"{number}.{part}") for part in range(20)))
        lease.finish("succeeded")
        finished.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        messages: list[Any] = []
        while not finished.is_set() or len(messages) < 1200:
            last = messages[-1][0] if messages else None
            messages += read(api, path, last=last, stop_after=37)
        writing.result(20)
    assert [seq for seq, _ in messages] == list(range(1, 1201))
    expected = [f"{number}.{part}" for number in range(60) for part in range(20)]
    assert [entry["text"] for _, entry in messages] == expected


def test_a_stream_of_a_finished_job_ends(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    api.post(f"/v1/jobs/{job['id']}/cancel")
    assert [seq for seq, _ in read(api, f"/v1/jobs/{job['id']}/events", last=1)] == [2]
    assert read(api, f"/v1/jobs/{job['id']}/events", last=2) == []
    assert read(api, f"/v1/jobs/{job['id']}/events?after=2") == []


def test_metrics_stream_point_by_point(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lease.records(
        {"record": "metric", "step": 1, "values": {"loss": 0.5}},
        {"record": "metric", "step": 2, "values": {"loss": "NaN"}},
    )
    lease.finish("succeeded")
    messages = read(api, f"/v1/jobs/{job['id']}/metrics")
    assert [(point["name"], point["step"], point["value"]) for _, point in messages] == [
        ("loss", 1, 0.5),
        ("loss", 2, "NaN"),
    ]


def test_pages_go_on_where_the_last_ended(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lease.records(*(line(str(number)) for number in range(25)))
    seen: list[int] = []
    after = 0
    while True:
        page = api.get(f"/v1/jobs/{job['id']}/logs", params={"after": after, "limit": 10}).json()
        seen += [entry["seq"] for entry in page["data"]]
        if not page["has_more"]:
            break
        after = int(page["next"])
    assert seen == list(range(1, 26))


def test_a_stream_of_no_job_is_404(api: httpx.Client) -> None:
    assert api.get("/v1/jobs/job_0/events", headers=STREAM).status_code == 404


def test_open_streams_and_waits_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    client = httpx.Client(timeout=60)
    with client, ThreadPoolExecutor(3) as pool:
        with serving(ServiceSettings(data_dir=tmp_path, port=0)) as address:
            client.base_url = httpx.URL(address)
            worker = HandWorker(client)
            worker.register()
            job = worker.submit()
            worker.lease()
            waiting: list[Future[Any]] = [
                pool.submit(read, client, f"/v1/jobs/{job['id']}/events"),
                pool.submit(client.get, f"/v1/jobs/{job['id']}?wait=30"),
                pool.submit(worker.ask, wait=30),
            ]
            began = time.monotonic()
        assert time.monotonic() - began < 8
        for one in waiting:
            error = one.exception(10)
            assert error is None or isinstance(error, httpx.TransportError), "refused if it came too late"
