"""The client's pushes against a real service: what was cut goes on, what is there is not sent, progress is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks.client.assets import format_of, packed_package
from tapeworks.client.client import Client
from tapeworks.client.payloads import NothingToSend

PART = 8 * 1024 * 1024


class Cut(Exception):
    """The process is gone."""


class Counting(httpx.HTTPTransport):
    """Sends, and counts parts; is cut off before part number `cut`."""

    def __init__(self, cut: int | None = None) -> None:
        super().__init__()
        self.parts, self.cut = 0, cut

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            if self.parts == self.cut:
                raise Cut
            self.parts += 1
        return super().handle_request(request)


def test_a_push_that_was_cut_sends_what_is_missing(api: httpx.Client, url: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.txt").write_bytes(os.urandom(PART))
    first, second, third = Counting(cut=2), Counting(), Counting()
    with pytest.raises(Cut), Client(url, transport=first) as client:
        client.datasets.push(folder, name="cut")
    told: list[tuple[int, int]] = []
    with Client(url, transport=second) as client:
        dataset = client.datasets.push(folder, name="cut", progress=lambda done, total: told.append((done, total)))
        assert (dataset.format, dataset.state, dataset.bytes) == ("text", "inspecting", told[-1][1])
    assert (first.parts, second.parts) == (2, 3), "four parts and the end of the archive"
    assert told[0][0] == 2 * PART
    assert told[-1][0] == told[-1][1] > 4 * PART
    with Client(url, transport=third) as client:
        assert client.datasets.push(folder, name="cut").id == dataset.id
        assert [one.id for one in client.datasets.list("cut")] == [dataset.id]
    assert third.parts == 0
    api.post(f"/v1/jobs/{dataset.job_id}/cancel")
    with Client(url) as client:
        client.datasets.delete(dataset.id)
        assert not list(client.datasets.list("cut"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.csv": "", "b.CSV": "", "notes.md": ""}, "csv"),
        ({"x/a.png": "", "y/b.jpeg": ""}, "images"),
        ({"d-train.tfrecord-00000-of-00002": "", "d-train.tfrecord-00001-of-00002": ""}, "tfrecord"),
        ({"a.csv.gz": "", "b.csv": ""}, "csv"),
        ({"country=de/a.parquet": "", "_SUCCESS": ""}, "parquet"),
        ({"a.npz.gz": ""}, None),
        ({"a.csv": "", "b.parquet": ""}, None),
        ({"README": ""}, None),
    ],
)
def test_a_format_is_told_by_the_names_of_files(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    if expected is None:
        with pytest.raises(NothingToSend, match="give format"):
            format_of(tmp_path)
    else:
        assert format_of(tmp_path) == expected


def test_a_folder_that_is_a_package_goes_under_its_own_name(tmp_path: Path) -> None:
    package = tmp_path / "acme"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__pycache__" / "x.pyc").write_text("")
    payload: Any = packed_package(package)
    from tapeworks_service.assets.package_metadata import read_metadata

    (tmp_path / "sent.zip").write_bytes(payload.content)
    metadata = read_metadata(tmp_path / "sent.zip")
    assert (metadata.name, metadata.modules, metadata.root, metadata.findings) == ("acme", ["acme"], "", [])
    with pytest.raises(NothingToSend, match="no Python file"):
        packed_package(tmp_path / "acme" / "__pycache__")
