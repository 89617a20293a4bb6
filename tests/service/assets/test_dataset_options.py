"""Options of a push: stored with the dataset, inherited by the sources of jobs, echoed in spec and lineage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tapeworks import Client
from tapeworks.cli.main import app
from tests.support.hand_worker import HandWorker, spec
from tests.support.uploading import send

GERMAN = {"delimiter": ";", "decimal": ",", "na_values": ["", "k.A."]}
DATA = b"a;b\n1,5;2\n"


@pytest.fixture
def api(package_worker: HandWorker) -> Iterator[httpx.Client]:
    yield package_worker.client
    package_worker.empty_queue("train")


def push(api: httpx.Client, data: bytes = DATA, name: str = "german", **fields: Any) -> httpx.Response:
    body = {"upload_id": send(api, data), "name": name, "format": "csv", **fields}
    return api.post("/v1/datasets", json=body)


def submitted(api: httpx.Client, files: Any, **config: Any) -> dict[str, Any]:
    answer = api.post("/v1/jobs", json=_spec(files, **config))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def _spec(files: Any, **config: Any) -> dict[str, Any]:
    source = {"component": "csv", "config": {"files": files, **config}}
    return {**spec(), "data": {**spec()["data"], "source": source}}


def test_options_are_stored_and_make_another_version(api: httpx.Client) -> None:
    made = push(api, options=GERMAN)
    assert (made.status_code, made.json()["options"]) == (201, GERMAN)
    assert push(api, options=GERMAN).status_code == 200
    other = push(api)
    assert (other.status_code, other.json()["version"], other.json()["options"]) == (201, "2", {})
    assert push(api, options=GERMAN).json()["id"] == made.json()["id"]


def test_a_job_inherits_what_its_config_does_not_give(api: httpx.Client) -> None:
    dataset = push(api, options=GERMAN).json()["id"]
    job = submitted(api, f"{dataset}/*.csv", labels="b")
    assert job["spec"]["data"]["source"]["config"] == {"files": f"{dataset}/*.csv", "labels": "b", **GERMAN}
    (read,) = job["lineage"]["inputs"]
    assert read["options"] == GERMAN
    job = submitted(api, dataset, delimiter=",", na_values=[])
    config = job["spec"]["data"]["source"]["config"]
    assert config == {"files": dataset, "delimiter": ",", "decimal": ",", "na_values": []}
    checked = api.post("/v1/jobs/validate", json=_spec(dataset)).json()
    assert checked["spec"]["data"]["source"]["config"]["delimiter"] == ";"


def test_sources_of_validation_inherit_too(api: httpx.Client) -> None:
    dataset = push(api, options={"encoding": "cp1252"}).json()["id"]
    own = {"component": "csv", "config": {"files": dataset}}
    body = {**spec(), "data": {**spec()["data"], "validation": own}}
    made = api.post("/v1/jobs", json=body).json()
    assert made["spec"]["data"]["validation"]["config"] == {"files": dataset, "encoding": "cp1252"}


def test_names_are_inherited_without_a_header_only(api: httpx.Client) -> None:
    dataset = push(api, options={"header": False, "names": ["u", "v"]}).json()["id"]
    assert submitted(api, dataset)["spec"]["data"]["source"]["config"]["names"] == ["u", "v"]
    assert submitted(api, dataset, header=True)["spec"]["data"]["source"]["config"] == {
        "files": dataset,
        "header": True,
    }


def test_datasets_that_differ_are_refused_until_the_config_decides(api: httpx.Client) -> None:
    one, other = push(api, options=GERMAN).json()["id"], push(api, name="plain").json()["id"]
    answer = api.post("/v1/jobs", json=_spec([one, other], decimal=".", na_values=[]))
    assert answer.status_code == 422
    (finding,) = answer.json()["errors"]
    assert finding["pointer"] == "/data/source/config/files"
    assert finding["message"] == f"{one} was pushed with delimiter ';', {other} with None"
    assert submitted(api, [one, other], delimiter=";", decimal=".", na_values=[])["state"] == "queued"


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("csv", {"delimiter": ";;"}, "must be one ASCII character, got ';;'"),
        ("csv", {"separator": ";"}, "separator"),
        ("csv", {"encoding": "utf-99"}, "'utf-99' is not a Python encoding"),
        ("csv", {"names": ["a"]}, "set header to false"),
        ("csv", {"decimal": ",", "thousands": ","}, "decimal and thousands must differ"),
        ("jsonl", {"delimiter": ";"}, "'delimiter' is not an option of the format jsonl; it accepts encoding"),
        ("parquet", {"encoding": "latin-1"}, "it accepts no options"),
    ],
)
def test_bad_options_are_refused(api: httpx.Client, format: str, options: dict[str, Any], message: str) -> None:
    answer = push(api, format=format, options=options)
    assert answer.status_code == 422, answer.text
    assert message in answer.text


def test_client_and_command_line_send_options(api: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_bytes(DATA)
    url = str(api.base_url)
    with Client(url) as client:
        dataset = client.datasets.push(tmp_path / "sales.csv", options=GERMAN)
    assert dataset.options == GERMAN
    options = ["--csv", "delimiter=;", "--option", "decimal=,", "--option", 'na_values=["", "k.A."]']
    arguments = ["--url", url, "data", "push", str(tmp_path / "sales.csv"), *options, "--no-wait", "--json"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["id"] == dataset.id
    wrong = CliRunner().invoke(app, [*arguments, "--option", "header=maybe"])
    assert wrong.exit_code == 2
    assert "header=maybe" in wrong.output
