"""Keys, scopes, projects, and what is open without any key."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks_service.auth.keys import key_hash
from tapeworks_service.settings import ServiceSettings, StartRefused
from tests.service.conftest import serving
from tests.support.hand_worker import HandWorker

KEY = "tw_first_key_of_the_tests"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def add_key(data: Path, key: str, scopes: str, *, project: str = "default", revoked: bool = False) -> None:
    """A key as the service will make them: only its hash is written."""
    database = sqlite3.connect(data / "tapeworks.db")
    database.execute("INSERT OR IGNORE INTO projects VALUES (?, 0)", (project,))
    values = (f"key_{key}", project, key, key_hash(key), scopes, 0, 0, None, 1.0 if revoked else None)
    database.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    database.commit()
    database.close()


def test_with_a_key_every_call_needs_one(own_sqlite_service: Any, tmp_path: Path) -> None:
    with own_sqlite_service(api_key=KEY) as (client, _):
        for path in ("/v1/jobs", "/v1/components", "/v1/workers", "/metrics", "/v1/jobs/job_0/events"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/v1/jobs", headers=bearer("tw_another_key_altogether")).status_code == 401
        assert client.post("/v1/jobs", json={}).status_code == 401, "before the body is looked at"
        assert client.get("/v1/jobs", headers=bearer(KEY)).status_code == 200
        assert client.get("/healthz").status_code == client.get("/docs").status_code == 200
        worker = HandWorker(client)
        client.headers.update(bearer(KEY))
        worker.register()
        worker.submit()
        assert worker.lease().heartbeat().status_code == 200
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("tapeworks.db*"))
    assert KEY.encode() not in stored


def test_scopes_bound_what_a_key_may_do(own_sqlite_service: Any, tmp_path: Path) -> None:
    with own_sqlite_service(api_key=KEY) as (client, _):
        data = tmp_path / "data"
        add_key(data, "tw_reader_reader_reader", '["read"]')
        add_key(data, "tw_worker_worker_worker", '["worker"]')
        add_key(data, "tw_revoked_revoked_revoked", '["read"]', revoked=True)
        reader, worker = bearer("tw_reader_reader_reader"), bearer("tw_worker_worker_worker")
        assert client.get("/v1/jobs", headers=reader).status_code == 200
        refused = client.post("/v1/jobs", json={}, headers=reader)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "submit" in refused.json()["detail"]
        assert client.post("/v1/worker/leases", json={}, headers=reader).status_code == 403
        for path in ("/v1/jobs", "/v1/jobs/job_none", "/v1/jobs/job_none?other="):
            assert client.get(path, headers=worker).status_code == 403
            assert client.get(path, headers=bearer("tw_unknown")).status_code == 401
        assert client.post("/v1/worker/leases", json={}, headers=worker).status_code == 422
        assert client.get("/v1/jobs", headers=bearer("tw_revoked_revoked_revoked")).status_code == 401


def test_a_project_does_not_see_anothers_jobs(own_sqlite_service: Any, tmp_path: Path) -> None:
    with own_sqlite_service(api_key=KEY) as (client, _):
        add_key(tmp_path / "data", "tw_other_other_other", '["read", "submit"]', project="other")
        worker = HandWorker(client)
        client.headers.update(bearer(KEY))
        worker.register()
        job = worker.submit(**{"Idempotency-Key": "same"})
        other = bearer("tw_other_other_other")
        assert client.get("/v1/jobs", headers=other).json()["data"] == []
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/events"), ("GET", "/model")):
            assert client.request(method, f"/v1/jobs/{job['id']}{path}", headers=other).status_code == 404
        theirs = worker.submit(**{"Idempotency-Key": "same"}, **other)
        assert theirs["id"] != job["id"], "a key is unique within its project"
        leases = [worker.lease(), worker.lease()]
        assert [lease.lease["project_id"] for lease in leases] == ["default", "other"]


def test_a_new_key_in_the_settings_replaces_the_old_one(own_service: Any, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    with own_service(api_key_file=file) as (client, _):
        assert client.get("/v1/jobs", headers=bearer(KEY)).status_code == 200
    file.write_text("tw_second_key_of_the_tests\n")
    with own_service(api_key_file=file) as (client, _):
        assert client.get("/v1/jobs", headers=bearer(KEY)).status_code == 401
        assert client.get("/v1/jobs", headers=bearer("tw_second_key_of_the_tests")).status_code == 200
    with own_service() as (client, _):
        assert client.get("/v1/jobs").status_code == 401, "an installation with keys stays locked without the setting"


def test_without_a_key_only_this_machine_is_served(api: httpx.Client) -> None:
    port = api.base_url.port
    for origin in (f"http://localhost:{port}", f"http://127.0.0.1:{port}"):
        assert api.get("/v1/jobs", headers={"Origin": origin}).status_code == 200, "a page of the service's own"
    for headers in (
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": f"http://attacker.example:{port}"},
        {"Host": "attacker.example"},
        {"Host": "["},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
    ):
        refused = api.post("/v1/jobs", json={}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_without_a_key_a_page_is_served_whose_origin_is_named(own_sqlite_service: Any) -> None:
    named = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
    with own_sqlite_service(origins="https://app.example, http://localhost:3000/") as (client, _):
        assert client.get("/v1/jobs", headers=named).status_code == 200
        assert client.get("/v1/jobs", headers={"Origin": "http://localhost:3001"}).status_code == 403


@pytest.mark.parametrize("host", ["::", "192.0.2.1", "example.org"])
def test_without_a_key_no_other_address_is_listened_on(tmp_path: Path, host: str) -> None:
    settings = ServiceSettings(data_dir=tmp_path, host=host, port=0)
    assert not settings.loopback
    with pytest.raises(AssertionError, match="did not start"), serving(settings):
        pass


@pytest.mark.parametrize("key", ["", "short", "with a space in its middle"])
def test_a_weak_key_is_refused(key: str) -> None:
    with pytest.raises(StartRefused):
        ServiceSettings(api_key=key).first_key()


def test_a_key_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="nowhere"):
        ServiceSettings(api_key_file=tmp_path / "nowhere").first_key()
