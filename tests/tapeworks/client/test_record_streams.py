"""Streams that resume and downloads that are whole."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tapeworks.client.client import Client
from tapeworks.errors import ApiError, Unavailable
from tests.support import service_answers as answers
from tests.tapeworks.client.test_client import Service, client, ok


class Breaking(httpx.SyncByteStream):
    """Some bytes, then a broken connection."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise httpx.ReadError("the connection broke")


def streamed(*events: dict[str, object], breaks: bool = False) -> httpx.Response:
    content = answers.stream(*events)
    headers = {"Content-Type": "text/event-stream"}
    if breaks:
        return httpx.Response(200, stream=Breaking(content + b'id: 99\ndata: {"seq'), headers=headers)
    return httpx.Response(200, content=content, headers=headers)


def page(*events: dict[str, object], has_more: bool = False) -> httpx.Response:
    return httpx.Response(200, json={"data": events, "has_more": has_more, "next": None})


def seqs(tapeworks: Client, **options: object) -> list[int]:
    return [event.seq for event in tapeworks.events("job_1", **options)]  # type: ignore[arg-type]


def test_pages_go_on_from_the_last_number() -> None:
    service = Service(page(answers.event(3), answers.event(4), has_more=True), page(answers.event(5)))
    assert seqs(client(service), after=2) == [3, 4, 5]
    assert [request.url.params["after"] for request in service.requests] == ["2", "4"]


def test_a_broken_stream_goes_on_without_loss_or_repeat() -> None:
    one, two, three, four = (answers.event(n) for n in (1, 2, 3, 4))
    service = Service(
        streamed(one, two, breaks=True),
        ok("running"),
        page(three),
        streamed(two, three, four),  # a service that repeats is seen through
        ok("succeeded"),
        page(),
    )
    assert seqs(client(service), follow=True) == [1, 2, 3, 4]
    sent = [r.headers["Last-Event-ID"] for r in service.requests if "Last-Event-ID" in r.headers]
    assert sent == ["0", "3"]


def test_a_service_that_is_away_for_a_moment_is_waited_for() -> None:
    service = Service(
        streamed(answers.event(1), breaks=True),
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
        ok("succeeded"),
        page(answers.event(2)),
    )
    assert seqs(client(service), follow=True) == [1, 2]


def test_a_stream_that_says_nothing_is_not_asked_without_a_pause() -> None:
    service = Service(streamed(), ok("running", revision=7), page(), streamed(), ok("succeeded", revision=8), page())
    assert seqs(client(service), follow=True) == []
    assert service.requests[4].url.params["unless"] == "7"


def test_an_unknown_job_has_no_stream() -> None:
    with pytest.raises(ApiError, match="not_found"):
        seqs(client(Service(answers.problem(404, "not_found"))), follow=True)


def test_a_download_is_checked_and_named(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    file = client(Service(answers.file(content))).download("job_1", tmp_path)
    assert file == tmp_path / "job_1.tar.gz"
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["job_1.tar.gz"]


def test_a_broken_download_goes_on_where_it_was(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    broken = answers.file(content)
    headers = {**broken.headers}
    service = Service(
        httpx.Response(200, stream=Breaking(content[:1000]), headers=headers),
        answers.file(content),
        answers.file(content, start=1000),
    )
    file = client(service).download("job_1", tmp_path / "model.tar.gz", format="keras")
    assert file.read_bytes() == content
    assert service.requests[2].headers["Range"] == "bytes=1000-"
    assert service.requests[2].headers["If-Range"] == '"one"'
    assert service.requests[2].url.params["format"] == "keras"


def test_a_later_call_goes_on_too(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    broken = httpx.Response(200, stream=Breaking(content[:1000]), headers={**answers.file(content).headers})
    service = Service(broken, answers.problem(500, "internal"), answers.problem(500, "internal"))
    with pytest.raises(Unavailable):
        client(service).download("job_1", tmp_path)
    assert not (tmp_path / "job_1.tar.gz").exists()
    later = Service(answers.file(content), answers.file(content, start=1000))
    assert client(later).download("job_1", tmp_path).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_bytes_with_another_digest_are_thrown_away(tmp_path: Path) -> None:
    service = Service(answers.file(b"abc", digest_of=b"abd"))
    with pytest.raises(ApiError, match="digest_mismatch"):
        client(service).download("job_1", tmp_path)
    assert list(tmp_path.iterdir()) == []
