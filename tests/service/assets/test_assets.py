"""Datasets and bundles over HTTP: uploads of a project, versions, what refuses them, who may see them."""

from __future__ import annotations

import os
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.assets.conftest import CSV
from tests.support.hand_worker import COMPONENTS, HandWorker, sha, spec
from tests.support.hostile_uploads import DANGEROUS, HARMFUL, saved
from tests.support.uploading import PART, a_bundle, a_package, a_tar, a_zip, begin, digest_header, make, send


@pytest.fixture
def api(package_worker: HandWorker) -> httpx.Client:
    return package_worker.client


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────


def test_a_cut_upload_is_resumed_and_the_same_bytes_are_sent_once(api: httpx.Client, hand: HandWorker) -> None:
    data = os.urandom(PART + 5)
    begun = begin(api, data)
    path = f"/v1/uploads/{begun['id']}/parts/2"
    assert api.put(path, content=data[PART:], headers=digest_header(data[PART:])).status_code == 204
    again = begin(api, data)
    assert (again["id"], again["missing"]) == (begun["id"], [1])
    early = api.post("/v1/datasets", json={"upload_id": begun["id"], "name": "cut", "format": "text"})
    assert (early.status_code, early.json()["errors"][0]["pointer"]) == (422, "/upload_id")
    assert send(api, data) == begun["id"]
    once_more = begin(api, data)
    assert once_more["completed"]
    assert once_more["missing"] == []
    assert api.post(f"/v1/uploads/{begun['id']}/complete").json()["completed"], "complete again, it is complete"


def test_a_whole_with_other_bytes_is_refused(api: httpx.Client) -> None:
    begun = api.post("/v1/uploads", json={"bytes": 5, "sha256": sha(b"wrong")}).json()
    path = f"/v1/uploads/{begun['id']}"
    assert api.put(f"{path}/parts/1", content=b"other", headers=digest_header(b"other")).status_code == 204
    refused = api.post(f"{path}/complete")
    assert (refused.status_code, refused.json()["code"]) == (422, "digest_mismatch")
    assert api.get(path).json()["missing"] == [1]


# ── datasets ─────────────────────────────────────────────────────────────────────────────────────


def test_a_dataset_is_looked_at_by_a_worker_and_named_by_a_job(api: httpx.Client, hand: HandWorker) -> None:
    made = make(api, "dataset", b"a,b\n1,2\n", name="numbers", format="csv")
    assert made.status_code == 201
    dataset = made.json()
    assert made.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["state"], dataset["version"], dataset["source"], dataset["content"]) == (
        "inspecting", "1", "csv", None,
    )  # fmt: skip
    look = hand.lease(wait=5)
    assert (look.job_id, look.lease["kind"], look.lease["spec"]) == (dataset["job_id"], "inspect", None)
    (given,) = look.lease["inputs"]
    assert (given["kind"], given["from"], given["about"]["format"]) == ("dataset", dataset["id"], "csv")
    read = api.get(f"{look.path}/inputs/0", headers=look.headers)
    assert read.content == b"a,b\n1,2\n"
    content = {"rows": 1, "columns": [{"name": "a", "dtype": "int64"}], "preview": [{"a": 1}], "files": 1}
    assert look.finish("succeeded", published={"result": content}).is_success
    seen = api.get(f"/v1/datasets/{dataset['id']}").json()
    assert (seen["state"], seen["content"]["rows"]) == ("ready", 1)

    source = {"component": "csv", "config": {"files": dataset["id"], "labels": "b"}}
    job = hand.submit(spec(data={**spec()["data"], "source": source}))
    assert job["lineage"]["inputs"][0]["sha256"] == dataset["sha256"]
    in_use = api.delete(f"/v1/datasets/{dataset['id']}")
    assert (in_use.status_code, in_use.json()["code"], in_use.json()["used_by"]) == (409, "in_use", [job["id"]])
    api.post(f"/v1/jobs/{job['id']}/cancel")
    kept = api.delete(f"/v1/jobs/{dataset['job_id']}")
    assert (kept.status_code, kept.json()["code"]) == (409, "in_use")
    assert api.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert api.get(f"/v1/datasets/{dataset['id']}").status_code == 404
    assert api.get(f"/v1/jobs/{dataset['job_id']}").status_code == 404
    assert not begin(api, b"a,b\n1,2\n")["completed"], "its bytes no longer exist"


def test_versions_are_numbered_and_the_same_bytes_are_the_same_version(api: httpx.Client, hand: HandWorker) -> None:
    versions = [make(api, "dataset", data, name="grown", format="text") for data in (b"one", b"two", b"one")]
    assert [one.status_code for one in versions] == [201, 201, 200]
    first, second, again = (one.json() for one in versions)
    assert (first["version"], second["version"], again["id"]) == ("1", "2", first["id"])
    listed = api.get("/v1/datasets", params={"name": "grown", "limit": 1}).json()
    assert [one["version"] for one in listed["data"]] == ["2"]
    following = api.get("/v1/datasets", params={"name": "grown", "after": listed["next"]}).json()
    assert [one["version"] for one in following["data"]] == ["1"]
    other = make(api, "dataset", b"one", name="other", format="text").json()
    assert other["id"] != first["id"]
    for one in (first, second, other):
        api.post(f"/v1/jobs/{one['job_id']}/cancel")
    assert api.delete(f"/v1/datasets/{first['id']}").status_code == 204
    assert begin(api, b"one")["completed"], "another dataset has the bytes"


def test_a_refused_dataset_says_why_and_is_tried_again_when_it_is_pushed_again(
    api: httpx.Client, hand: HandWorker
) -> None:
    dataset = make(api, "dataset", b"a,b\n1\n", name="broken", format="csv").json()
    hand.lease(wait=5).fail("invalid_data")
    seen = api.get(f"/v1/datasets/{dataset['id']}").json()
    assert (seen["state"], seen["failure"]["code"]) == ("refused", "invalid_data")
    source = {"component": "csv", "config": {"files": [dataset["id"]]}}
    refused = api.post("/v1/jobs/validate", json=spec(data={**spec()["data"], "source": source}))
    (finding,) = refused.json()["errors"]
    assert finding["pointer"] == "/data/source/config/files/0"
    assert "made to fail" in finding["message"]
    again = make(api, "dataset", b"a,b\n1\n", name="broken", format="csv")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, dataset["id"], "inspecting")


def test_a_job_may_name_a_part_of_a_dataset_and_no_strangers(api: httpx.Client, hand: HandWorker) -> None:
    dataset = make(api, "dataset", a_zip({"train/a.csv": "a\n1\n"}), name="parts", format="csv").json()
    for files, status in ((f"{dataset['id']}/train/*.csv", 200), ("ds_0", 422), ("other/*.csv", 200)):
        source = {"component": "csv", "config": {"files": files}}
        answer = api.post("/v1/jobs/validate", json=spec(data={**spec()["data"], "source": source}))
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("name", DANGEROUS)
def test_what_is_dangerous_to_unpack_is_refused(api: httpx.Client, name: str) -> None:
    format, data, why = DANGEROUS[name]
    refused = make(api, "dataset", data, name="bad", format=format)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
    assert why in refused.json()["detail"]
    assert api.get("/v1/datasets", params={"name": "bad"}).json()["data"] == []


@pytest.mark.usefixtures("hand")
def test_arrays_come_as_npz_and_npy_alone_or_in_an_archive(api: httpx.Client) -> None:
    array = saved(np.arange(3))
    for data in (array, a_tar({"a/x.npy": array, "a/y.npy": array}), a_zip({"x.npy": array})):
        made = make(api, "dataset", data, name="arrays", format="npz")
        assert made.status_code == 201, made.text


# ── bundles ──────────────────────────────────────────────────────────────────────────────────────


def test_an_uploaded_bundle_serves_as_from(api: httpx.Client, hand: HandWorker) -> None:
    content = a_bundle()
    made = make(api, "bundle", content, name="elsewhere")
    assert made.status_code == 201, made.text
    bundle = made.json()
    assert (bundle["state"], bundle["roles"], bundle["job_id"]) == ("ready", ["model"], "job_1")
    job = hand.submit(spec(training={"epochs": 1, "initial_state": {"from": bundle["id"]}}))
    lease = hand.lease(wait=5)
    assert lease.job_id == job["id"]
    (given,) = lease.lease["inputs"]
    assert (given["kind"], given["sha256"]) == ("bundle", bundle["sha256"])
    assert api.get(f"{lease.path}/inputs/0", headers=lease.headers).content == content
    lease.fail("internal")


@pytest.mark.parametrize("name", HARMFUL)
def test_a_bundle_that_could_harm_is_refused(api: httpx.Client, name: str) -> None:
    bundle, why = HARMFUL[name]
    refused = make(api, "bundle", bundle, name="bad")
    assert refused.status_code == 422, refused.text
    assert why in refused.json()["detail"]


# ── whose they are ───────────────────────────────────────────────────────────────────────────────


def test_another_project_sees_nothing(own_service: Any, tapeworks: Any) -> None:
    with own_service(api_key="tw_" + "k" * 40, allow_packages=True) as (client, worker):
        client.headers["Authorization"] = "Bearer tw_" + "k" * 40
        worker.register([*COMPONENTS, CSV], packages=True)
        made = tapeworks("create", "b", "--project", "b", "--scope", "read", "--scope", "submit", "--json")
        stranger = {"Authorization": f"Bearer {made['key']}"}
        upload_id = send(client, b"a\n1\n")
        dataset = client.post("/v1/datasets", json={"upload_id": upload_id, "name": "n", "format": "csv"}).json()
        bundle = make(client, "bundle", a_bundle(), name="b").json()
        package = make(client, "package", a_package()).json()
        for path in (
            f"/v1/uploads/{upload_id}", f"/v1/datasets/{dataset['id']}", f"/v1/bundles/{bundle['id']}",
            f"/v1/packages/{package['id']}", f"/v1/jobs/{dataset['job_id']}",
        ):  # fmt: skip
            assert client.get(path).is_success
            assert client.get(path, headers=stranger).status_code == 404
            assert client.delete(path, headers=stranger).status_code in (404, 405)
        assert client.post(f"/v1/uploads/{upload_id}/complete", headers=stranger).status_code == 404
        made = client.post(
            "/v1/datasets", json={"upload_id": upload_id, "name": "n", "format": "csv"}, headers=stranger
        )
        assert made.status_code == 422
        for kind in ("datasets", "packages", "bundles"):
            assert client.get(f"/v1/{kind}", headers=stranger).json()["data"] == []
        begun = begin(client, b"a\n1\n", headers=stranger)
        assert not begun["completed"], "what a project has, another must send"
        named = spec(training={"epochs": 1, "initial_state": {"from": bundle["id"]}})
        refused = client.post("/v1/jobs/validate", json=named, headers=stranger)
        assert "there is no bundle" in refused.json()["errors"][0]["message"]
