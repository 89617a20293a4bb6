"""A client that a stock generator makes from the served OpenAPI document submits a job and downloads its model."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from typing import Any

import pytest

from qualification.security.attacked_server import KEY, House
from tests.support.paths import ROOT

CONFIG = '{"project_name_override": "made", "package_name_override": "made_client", "post_hooks": []}'


@pytest.fixture(scope="module")
def made(house: House, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The generated package, imported."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_bytes(house.client._connection.request("GET", "/openapi.json").content)
    (folder / "config.json").write_text(CONFIG)
    command = [
        sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--config", "config.json",
        "--meta", "none", "--output-path", "made_client",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module("made_client")
    sys.path.remove(str(folder))


def test_it_submits_a_job_and_downloads_its_model(made: Any, house: House) -> None:
    api = "made_client.api.jobs"
    create, get = (importlib.import_module(f"{api}.{name}") for name in ("create_job", "get_job"))
    download = importlib.import_module("made_client.api.files.get_model")
    spec = json.loads((ROOT / "examples" / "digits_focal.json").read_text())
    with made.AuthenticatedClient(base_url=house.served.url, token=KEY) as client:
        job = create.sync(client=client, body=spec)
        end = time.monotonic() + 200
        while (now := get.sync(client=client, job_id=job.id)).state not in ("succeeded", "failed"):
            assert time.monotonic() < end
            time.sleep(0.2)
        assert now.state == "succeeded", now.failure
        answer = download.sync_detailed(client=client, job_id=job.id)
        assert answer.status_code == 200
        assert len(answer.parsed.payload.read()) == now.model.bytes_
