"""The client's calls: what is sent, what comes back, what is repeated and what is not."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tapeworks.client.client import Client
from tapeworks.errors import (
    ApiError,
    Conflict,
    NotFound,
    Rejected,
    SpecInvalid,
    Unauthorized,
    Unavailable,
)
from tapeworks.schemas.jobs import JobKind, State
from tapeworks.spec.job_spec import JobSpec
from tests.support import service_answers as answers

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> Client:
    return Client("http://service", "tw_key", transport=httpx.MockTransport(handler))


class Service:
    """Gives the answers in order and keeps the requests."""

    def __init__(self, *given: httpx.Response | Exception) -> None:
        self.given, self.requests = list(given), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.given.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ok(state: str = "queued", **fields: object) -> httpx.Response:
    return httpx.Response(200, json=answers.job(state, **fields))


def test_a_submit_is_repeated_with_one_key_and_one_body() -> None:
    service = Service(httpx.ReadError("gone"), answers.problem(503, "unavailable"), httpx.ConnectError("no"), ok())
    job = client(service).submit(answers.SPEC)
    assert job.id == "job_1"
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 1
    assert len({request.content for request in service.requests}) == 1
    assert service.requests[0].headers["Authorization"] == "Bearer tw_key"
    assert service.requests[0].headers["Content-Type"] == "application/json"


def test_a_validation_by_tracing_is_a_job_and_is_repeated_with_one_key() -> None:
    service = Service(httpx.ReadError("gone"), ok(kind="validate"))
    job = client(service).validate(answers.SPEC, trace=True)
    assert job.kind is JobKind.VALIDATE
    assert {str(request.url) for request in service.requests} == {"http://service/v1/jobs/validate?trace=true"}
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 1


def test_two_submits_have_two_keys() -> None:
    service = Service(ok(), ok())
    with client(service) as tapeworks:
        tapeworks.submit(answers.SPEC)
        tapeworks.submit(answers.SPEC)
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 2


def test_a_file_is_sent_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(answers.SPEC, indent=7))
    service = Service(ok())
    client(service).submit(file)
    assert service.requests[0].content == file.read_bytes()


def test_a_model_is_sent_in_its_canonical_form() -> None:
    spec = JobSpec.model_validate(answers.SPEC)
    service = Service(ok())
    assert client(service).submit(spec).spec == spec
    assert json.loads(service.requests[0].content) == spec.document()


def test_a_spec_with_nan_is_refused_here() -> None:
    with pytest.raises(SpecInvalid, match="JSON"):
        client(Service()).submit({**answers.SPEC, "priority": float("nan")})


def test_a_pause_is_at_least_what_retry_after_says() -> None:
    service = Service(answers.problem(429, "rate_limited", headers={"Retry-After": "1"}), ok())
    began = time.monotonic()
    client(service).get("job_1")
    assert time.monotonic() - began >= 1


def test_an_outage_longer_than_the_patience_is_told() -> None:
    service = Service(answers.problem(503, "unavailable", headers={"Retry-After": "3600"}))
    with pytest.raises(Unavailable) as caught:
        client(service).get("job_1")
    assert (caught.value.status, caught.value.code) == (503, "unavailable")


@pytest.mark.parametrize("call", ["cancel", "delete"])
def test_what_may_have_been_done_is_not_repeated(call: str) -> None:
    service = Service(httpx.ReadError("gone"), ok())
    with pytest.raises(Unavailable) as caught:
        getattr(client(service), call)("job_1")
    assert caught.value.status == 0
    assert len(service.requests) == 1


def test_what_was_never_sent_is_repeated() -> None:
    service = Service(httpx.ConnectError("refused"), answers.problem(503, "unavailable"), ok("cancelled"))
    assert client(service).cancel("job_1").state is State.CANCELLED


def test_a_defect_of_the_service_is_not_repeated() -> None:
    service = Service(answers.problem(500, "internal"))
    with pytest.raises(Unavailable, match="internal"):
        client(service).get("job_1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (401, Unauthorized), (403, Unauthorized), (404, NotFound), (409, Conflict), (413, Rejected),
     (422, Rejected), (507, Unavailable)],
)  # fmt: skip
def test_a_problem_becomes_its_exception(status: int, kind: type[ApiError]) -> None:
    found = {"pointer": "/model", "code": "unknown_component", "message": "no", "hint": "yes"}
    with pytest.raises(kind) as caught:
        client(Service(answers.problem(status, "some_code", errors=[found]))).get("job_1")
    assert (caught.value.status, caught.value.code, caught.value.detail) == (status, "some_code", "about some_code")
    assert caught.value.errors == [found]


def test_an_answer_that_is_no_problem_document_is_told_by_its_status() -> None:
    with pytest.raises(NotFound, match="http_404"):
        client(Service(httpx.Response(404, text="<html>"))).get("job_1")


def test_an_answer_of_something_else_is_told() -> None:
    with pytest.raises(ApiError, match="invalid_answer"):
        client(Service(httpx.Response(200, text="<html>welcome</html>"))).get("job_1")


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(Unavailable):
        Client("nonsense://x").get("job_1")


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWORKS_URL", "http://elsewhere:1/")
    monkeypatch.setenv("TAPEWORKS_KEY", "tw_other")
    service = Service(ok())
    with Client(transport=httpx.MockTransport(service)) as tapeworks:
        tapeworks.get("job_1")
    assert str(service.requests[0].url) == "http://elsewhere:1/v1/jobs/job_1"
    assert service.requests[0].headers["Authorization"] == "Bearer tw_other"


def test_waiting_tells_each_change_once_and_ends_with_the_job() -> None:
    service = Service(ok(revision=1), ok(revision=1), ok("running", revision=2), ok("succeeded", revision=5))
    seen: list[tuple[str, int]] = []
    job = client(service).wait("job_1", on_change=lambda job: seen.append((job.state.value, job.revision)))
    assert job.state is State.SUCCEEDED
    assert seen == [("queued", 1), ("running", 2), ("succeeded", 5)]
    assert [request.url.params.get("unless") for request in service.requests] == [None, "1", "1", "2"]
    assert service.requests[1].extensions["timeout"]["read"] > float(service.requests[1].url.params["wait"])


def test_waiting_tells_that_no_worker_fits_any_more() -> None:
    alone = {"unschedulable": {"reason": "no worker is connected"}}
    service = Service(ok(), ok(**alone), ok("succeeded", revision=2))
    seen: list[object] = []
    client(service).wait("job_1", on_change=lambda job: seen.append(job.unschedulable and job.unschedulable.reason))
    assert seen == [None, "no worker is connected", None]


def test_waiting_ends_in_time() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return ok("running", revision=3)

    with pytest.raises(TimeoutError, match="running"):
        client(handler).wait("job_1", timeout=0.05)


def test_a_list_is_read_page_by_page() -> None:
    pages = {
        None: {"data": [answers.job(revision=1)], "has_more": True, "next": "a b"},
        "a b": {"data": [answers.job(revision=2)], "has_more": False, "next": None},
    }
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=pages[request.url.params.get("after")])

    listed = client(handler).list(state=["failed", State.CANCELLED], label={"team": "a"})
    assert next(listed).revision == 1
    assert len(requests) == 1
    assert [job.revision for job in listed] == [2]
    assert requests[1].url.params.get_list("state") == ["failed", "cancelled"]


def test_an_update_sends_what_is_given() -> None:
    service = Service(ok())
    client(service).update("job_1", labels={"a": "b"}, priority=0)
    assert json.loads(service.requests[0].content) == {"labels": {"a": "b"}, "priority": 0}


def test_ids_and_names_cannot_leave_their_place_in_the_address() -> None:
    service = Service(answers.problem(404, "not_found"))
    with pytest.raises(NotFound):
        client(service).get("../workers?x=1")
    assert service.requests[0].url.raw_path == b"/v1/jobs/..%2Fworkers%3Fx%3D1"


def test_history_is_what_fit_returns() -> None:
    events = [
        answers.event(1, "epoch", epoch=1, step=10, logs={"loss": 2.0}),
        answers.event(2, "epoch", epoch=2, step=20, logs={"loss": 1.5, "val_loss": 1.6}),
        answers.event(3, "rewound", step=10),
        answers.event(4, "epoch", epoch=2, step=20, logs={"loss": "NaN", "val_loss": 1.4}),
        answers.event(5, "epoch", epoch=3, step=30, logs={"loss": 1.0, "val_loss": 1.2}),
    ]
    page = httpx.Response(200, json={"data": events, "has_more": False})
    history = client(Service(page)).history("job_1")
    assert list(history) == ["loss", "val_loss"]
    assert history["loss"][0] == 2.0
    assert history["loss"][1] != history["loss"][1]
    assert history["loss"][2] == 1.0
    assert history["val_loss"] == [1.4, 1.2]
