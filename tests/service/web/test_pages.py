"""The web page's files over HTTP: who gets them, with which headers, and what is not given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tapeworks_service.web import pages

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A build in a folder of its own, with a secret beside it."""
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html><title>Tapeworks</title>")
    (dist / "assets" / "index-1a2b3c.js").write_text("export {};")
    (tmp_path / "secret.txt").write_text("secret")
    (dist / "assets" / "link.js").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(pages, "DIST", dist)
    return dist


@pytest.mark.parametrize("path", ["/", "/jobs", "/jobs/job_1", "/compare?job=a&job=b", "/new", "/data", "/login"])
def test_a_browser_gets_the_page_and_a_client_what_it_got_before(api: httpx.Client, built: Path, path: str) -> None:
    shown = api.get(path, headers=BROWSER)
    assert (shown.status_code, shown.text) == (200, (built / "index.html").read_text())
    policy = shown.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert not re.search(r"script-src|unsafe-eval|\*", policy)
    for name, value in {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", "Vary": "Accept"}.items():
        assert shown.headers[name] == value
    refused = api.get(path)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_assets_are_kept_for_ever_and_nothing_outside_is_given(api: httpx.Client, built: Path) -> None:
    found = api.get("/assets/index-1a2b3c.js")
    assert found.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert found.headers["Content-Type"].startswith("text/javascript")
    for path in ("%2e%2e/index.html", "..%2f..%2fsecret.txt", "link.js", "%00", "none.js", "", "%2fetc%2fpasswd"):
        missing = api.get(f"/assets/{path}", headers=BROWSER)
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found"), path


def test_an_installation_without_the_page_says_so(
    api: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "DIST", tmp_path)
    told = api.get("/", headers=BROWSER)
    assert (told.status_code, told.text) == (503, pages.NOT_BUILT)
    assert api.get("/healthz", headers=BROWSER).json() == {"status": "ok"}
    assert api.get("/assets/index.js").status_code == 404


def test_the_reference_has_no_script_of_its_own_and_asks_no_other_server(api: httpx.Client) -> None:
    page = api.get("/docs")
    assert page.headers["Content-Security-Policy"] == pages.POLICY
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(named) == 4
    assert "//" not in page.text
    assert not re.search(r"<script>|\son\w+=", page.text)
    for path in named:
        assert api.get(path).is_success, path
    assert "//" not in api.get("/docs/start.js").text
