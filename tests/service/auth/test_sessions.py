"""The web page's log-in, attacked: other origins, forms, stolen cookies, keys and sessions that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tapeworks_service.api.same_origin import refuse_foreign
from tapeworks_service.auth.sessions import COOKIE
from tapeworks_service.problems import Problem
from tests.service.auth.test_keys import bearer, eventually
from tests.support.hand_worker import HandWorker, spec

KEY = "tw_first_key_of_the_tests"
PAGE = {"X-Tapeworks-Page": "1"}


def origin(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def log_in(client: httpx.Client, key: str = KEY, **headers: str) -> httpx.Response:
    """Log in as the page does; the client keeps no cookie by itself."""
    made = client.post("/v1/session", json={"key": key}, headers={"Origin": origin(client), **PAGE, **headers})
    client.cookies.clear()
    return made


def cookie(made: httpx.Response) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={made.cookies[COOKIE]}"}


def refused(answer: httpx.Response, status: int = 403) -> bool:
    code = {401: "unauthenticated", 403: "forbidden", 404: "not_found", 409: "conflict", 422: "invalid_request"}[status]
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return True


def test_a_cookie_stands_for_its_key_until_logged_out(own_service: Any) -> None:
    with own_service(api_key=KEY) as (client, _):
        assert refused(client.get("/v1/session"), 401)
        made = log_in(client)
        assert made.status_code == 201
        flags = made.headers["Set-Cookie"].lower()
        for flag in ("httponly", "samesite=strict", "path=/", "max-age=604800"):
            assert flag in flags
        assert "secure" not in flags
        assert "domain" not in flags
        assert KEY not in made.text + flags
        own = cookie(made)
        seen = client.get("/v1/session", headers=own).json()
        assert (seen["keyless"], seen["project"]) == (False, "default")
        assert seen == made.json()
        assert client.get("/v1/jobs", headers=own).status_code == 200
        worker = HandWorker(client)
        client.headers.update(bearer(KEY))
        worker.register()
        del client.headers["Authorization"]
        changed = client.post("/v1/jobs", json=spec(), headers={**own, **PAGE, "Origin": origin(client)})
        assert changed.status_code == 201, changed.text
        left = client.delete("/v1/session", headers={**own, **PAGE, "Origin": origin(client)})
        assert left.status_code == 204
        assert "max-age=0" in left.headers["Set-Cookie"].lower()
        assert refused(client.get("/v1/jobs", headers=own), 401), "a copy of the cookie ended with it"


def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(own_service: Any) -> None:
    with own_service(api_key=KEY) as (client, _):
        made = log_in(client, Host="train.example", Origin="https://train.example")
        assert "secure" in made.headers["Set-Cookie"].lower()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:3000", **PAGE},
        {"Origin": "http://127.0.0.1", **PAGE},
        {"Origin": "https://attacker.example", **PAGE},
        {"Origin": "null", **PAGE},
        {"Origin": "http://[", **PAGE},
        {"Sec-Fetch-Site": "cross-site", **PAGE},
        {"Sec-Fetch-Site": "same-site", **PAGE},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"},
        {"X-Tapeworks-Page": "0"},
    ],
)
def test_another_page_cannot_use_the_cookie_nor_log_somebody_in(keyed: httpx.Client, headers: dict[str, str]) -> None:
    own = cookie(log_in(keyed))
    before = len(keyed.get("/v1/jobs", headers=own).json()["data"])
    for method, path in (
        ("POST", "/v1/jobs"),
        ("POST", "/v1/keys"),
        ("DELETE", "/v1/session"),
        ("POST", "/v1/uploads"),
    ):
        assert refused(keyed.request(method, path, content=b'{"name": "x"}', headers={**own, **headers})), path
    if "Origin" in headers:
        assert refused(keyed.get("/v1/jobs", headers={**own, **headers}))
    assert refused(keyed.post("/v1/session", content=f'{{"key": "{KEY}"}}', headers=headers))
    assert len(keyed.get("/v1/jobs", headers=own).json()["data"]) == before


@pytest.fixture(scope="module")
def keyed(new_database: Callable[[], str | None], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client of a service that has a key."""
    from tests.service.conftest import OwnService

    with OwnService(tmp_path_factory.mktemp("keyed"), new_database())(api_key=KEY) as (client, _):
        yield client


def test_a_key_sent_by_a_program_needs_no_header_of_the_page(keyed: httpx.Client) -> None:
    answered = keyed.post("/v1/jobs/validate", json={}, headers=bearer(KEY))
    assert answered.status_code not in (401, 403)
    stale = {"Cookie": f"{COOKIE}=stale", **bearer(KEY)}
    assert keyed.get("/v1/jobs", headers=stale).status_code == 200, "the key is what counts"


def test_a_stolen_cookie_ends_with_its_key(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service(api_key=KEY) as (client, _):
        for by_http in (False, True):
            key = tapeworks("create", "alice", "--scope", "read", "--json")
            stolen = cookie(log_in(client, key["key"]))
            assert client.get("/v1/jobs", headers=stolen).status_code == 200
            if by_http:
                assert client.delete(f"/v1/keys/{key['id']}", headers=bearer(KEY)).status_code == 200
                assert refused(client.get("/v1/jobs", headers=stolen), 401)
            else:
                tapeworks("revoke", key["id"])
                eventually(client, "/v1/jobs", 401, **stolen)
            assert refused(log_in(client, key["key"]), 401)


def test_a_session_ends_at_its_time_and_its_text_is_not_stored(own_service: Any) -> None:
    with own_service(api_key=KEY) as (client, _):
        made = log_in(client)
        own = cookie(made)
        assert client.get("/v1/jobs", headers=own).status_code == 200

        async def age() -> list[Any]:
            engine = create_async_engine(own_service.url)
            async with engine.begin() as connection:
                rows = (await connection.execute(text("SELECT * FROM sessions"))).all()
                await connection.execute(text("UPDATE sessions SET expires_at = expires_at - 700000"))
            await engine.dispose()
            return list(rows)

        (row,) = asyncio.run(age())
        assert made.cookies[COOKIE] not in repr(row)
        eventually(client, "/v1/jobs", 401, **own)
        assert log_in(client).status_code == 201
        assert len(asyncio.run(age())) == 1, "a log-in removes what is over"


def test_only_a_key_that_reads_logs_in(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service(api_key=KEY) as (client, _):
        worker = tapeworks("create", "a worker", "--scope", "worker", "--json")["key"]
        assert refused(log_in(client, worker))
        assert refused(log_in(client, "tw_nobody"), 401)
        for body in (b"", b"[]", b'{"key": 1}', b'{"key": "' + b"x" * 2000 + b'"}'):
            answered = client.post("/v1/session", content=body, headers={**PAGE})
            assert refused(answered, 422)


def test_without_keys_nobody_logs_in_and_other_origins_stay_out(api: httpx.Client) -> None:
    seen = api.get("/v1/session").json()
    assert (seen["keyless"], seen["scopes"]) == (True, ["read", "submit", "admin", "worker"])
    with_cookie = {"Cookie": f"{COOKIE}=whatever", **PAGE}
    assert api.get("/v1/jobs", headers=with_cookie).status_code == 200
    for foreign in ({"Origin": "https://attacker.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert refused(api.post("/v1/jobs", json=spec(), headers={**with_cookie, **foreign}))
        assert refused(api.post("/v1/keys", json={"name": "x"}, headers={**PAGE, **foreign}))


def test_a_public_origin_behind_a_proxy_may_be_named() -> None:
    asked = {"origin": "https://train.example", "host": "127.0.0.1:8000", "X-Tapeworks-Page": "1"}
    with pytest.raises(Problem):
        refuse_foreign("POST", asked, "")
    refuse_foreign("POST", asked, "https://train.example/")


def test_a_key_gives_what_it_has(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service(api_key=KEY) as (client, _):
        all_scopes = bearer(KEY)
        made = client.post("/v1/keys", json={"name": "alice"}, headers=all_scopes)
        assert made.status_code == 201
        assert (made.json()["scopes"], made.headers["Cache-Control"]) == (["read", "submit"], "no-store")
        alice = bearer(made.json()["key"])
        assert client.get("/v1/jobs", headers=alice).status_code == 200
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", f"/v1/keys/{made.json()['id']}")):
            assert refused(client.request(method, path, headers=alice))
        listed = client.get("/v1/keys", headers=all_scopes).json()["data"]
        assert [key["name"] for key in listed] == ["first", "alice"]
        assert made.json()["key"] not in str(listed)
        theirs = tapeworks("create", "chief", "--scope", "admin", "--scope", "read", "--project", "other", "--json")
        chief = bearer(theirs["key"])
        assert [key["name"] for key in client.get("/v1/keys", headers=chief).json()["data"]] == ["chief"]
        for scopes in (["worker"], ["submit"], ["read", "worker"]):
            assert refused(client.post("/v1/keys", json={"name": "x", "scopes": scopes}, headers=chief))
        given = client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}, headers=chief).json()
        assert given["project"] == "other"
        assert refused(client.delete(f"/v1/keys/{made.json()['id']}", headers=chief), 404)
        for body in ({}, {"name": ""}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["root"]}):
            assert refused(client.post("/v1/keys", json=body, headers=all_scopes), 422)


def test_the_last_key_is_revoked_on_demand_only(own_service: Any) -> None:
    with own_service() as (client, _):
        made = client.post("/v1/keys", json={"name": "first", "scopes": ["read", "admin"]}).json()
        assert refused(client.get("/v1/jobs"), 401)
        own = bearer(made["key"])
        kept = client.delete(f"/v1/keys/{made['id']}", headers=own)
        assert refused(kept, 409)
        assert "?last=true" in kept.json()["hint"]
        assert client.get("/v1/jobs", headers=own).status_code == 200
        gone = client.delete(f"/v1/keys/{made['id']}?last=true", headers=own).json()
        assert gone["revoked_at"] is not None
        assert client.get("/v1/jobs").status_code == 200


def test_what_runs_is_told(api: httpx.Client) -> None:
    told = api.get("/v1/version").json()
    assert told["api"] == "v1"
    assert told["tapeworks"]
    assert told["database"] in ("sqlite", "postgresql")
