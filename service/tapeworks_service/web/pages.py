"""The web page's built files: `/` and the paths of its views, and `/assets/…`.

`web/` at the repository's root is built into `dist/` beside this file. Nothing else of the service depends on it:
without it `/` says so, and the API works.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

router = APIRouter(include_in_schema=False)

DIST = Path(__file__).parent / "dist"
VIEWS = ("jobs", "compare", "new", "components", "data", "workers", "settings", "login")
"""First parts of the paths that the page shows by itself."""
POLICY = (
    # The editor and the charts write style elements, but no script.
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
GUARDED = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
NOT_BUILT = "The web page was not built into this installation; the API works, and /docs is its reference.\n"
_PAGE = {**GUARDED, "Cache-Control": "no-cache", "Vary": "Accept"}
_ASSET = {**GUARDED, "Cache-Control": "public, max-age=31536000, immutable"}  # their names have a hash of the content


async def page(request: Request, rest: str = "") -> Response:
    """The page for a browser, 404 for a client of the API; 503 where it was not built."""
    if "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)
    index = DIST / "index.html"
    if not index.is_file():
        return PlainTextResponse(NOT_BUILT, 503, headers=_PAGE)
    return FileResponse(index, headers=_PAGE)


for _view in ("", *VIEWS):
    router.add_api_route(f"/{_view}", page, methods=["GET", "HEAD"])
    if _view:
        router.add_api_route(f"/{_view}/{{rest:path}}", page, methods=["GET", "HEAD"])


@router.api_route("/assets/{path:path}", methods=["GET", "HEAD"])
async def asset(path: str) -> Response:
    """A file that the page loads. 404 for what lies outside the folder, however it is reached."""
    folder = (DIST / "assets").resolve()
    file = (folder / path).resolve() if "\0" not in path else folder
    if not file.is_relative_to(folder) or not file.is_file():
        raise HTTPException(404)
    return FileResponse(file, headers=_ASSET)


@router.api_route("/favicon.{kind}", methods=["GET", "HEAD"])
async def icon(kind: str) -> Response:
    """The icon beside index.html, where the build made one."""
    file = DIST / f"favicon.{kind}"
    if kind not in ("ico", "svg", "png") or not file.is_file():
        raise HTTPException(404)
    return FileResponse(file, headers={**GUARDED, "Cache-Control": "public, max-age=86400"})
