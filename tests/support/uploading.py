"""A user who uploads by hand: files, archives, and what is made of them."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from typing import Any

import httpx

from tests.support.hand_worker import sha

PART = 8 * 1024 * 1024


def digest_header(data: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha(data))).decode()}:"}


def begin(api: httpx.Client, data: bytes, **headers: Any) -> dict[str, Any]:
    answer = api.post("/v1/uploads", json={"bytes": len(data), "sha256": sha(data)}, **headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def send(api: httpx.Client, data: bytes, **headers: Any) -> str:
    """A whole upload; its id."""
    begun = begin(api, data, **headers)
    own = headers.get("headers", {})
    for number in begun["missing"]:
        part = data[(number - 1) * PART : number * PART]
        path = f"/v1/uploads/{begun['id']}/parts/{number}"
        assert api.put(path, content=part, headers={**digest_header(part), **own}).status_code == 204
    if not begun["completed"]:
        assert api.post(f"/v1/uploads/{begun['id']}/complete", headers=own).is_success
    return str(begun["id"])


def make(api: httpx.Client, kind: str, data: bytes, **fields: Any) -> httpx.Response:
    return api.post(f"/v1/{kind}s", json={"upload_id": send(api, data), **fields})


def a_zip(files: dict[str, bytes | str], *, deflate: bool = True) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
    return written.getvalue()


def a_tar(files: dict[str, bytes], *, mode: str = "w:gz") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return written.getvalue()


def a_package(name: str = "acme-losses", version: str = "1.0.0", **more: str) -> bytes:
    """A zip of sources with one component."""
    module = name.replace("-", "_")
    project = (
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
        f'[project.entry-points."tapeworks.components"]\nown = "{module}"\n'
    )
    return a_zip({"pyproject.toml": project, f"{module}.py": "# components\n", **more})


def a_bundle(config: Any = None, **files: bytes) -> bytes:
    """A bundle of one model; `config` is that of its architecture."""
    model = a_zip({"config.json": json.dumps(config or {"class_name": "Sequential"}), "metadata.json": "{}"})
    return a_tar({"manifest.json": b'{"job_id": "job_1"}', "models/model.keras": model, **files})
