"""`/docs`: the API reference as a page, with Swagger UI's files from a package: no other server takes part."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path as FilePath
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from tapeworks_service.web.pages import GUARDED

router = APIRouter(include_in_schema=False)

_FILES = FilePath(str(files("fastapi_offline"))) / "static"
_KEPT = {**GUARDED, "Cache-Control": "public, max-age=86400"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tapeworks</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
# Without `validatorUrl: null` a stranger's server is asked about the document. The header lets what a reader tries out
# use the session of the page.
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  requestInterceptor: (request) => {
    request.headers["X-Tapeworks-Page"] = "1";
    return request;
  },
});
"""


@router.get("/docs")
async def docs() -> Response:
    """The page. It sends what a reader tries out to this service and to nobody else."""
    return HTMLResponse(_PAGE, headers=GUARDED)


@router.get("/docs/start.js")
async def start() -> Response:
    """What draws the page: a file of its own, so that no script stands in the page."""
    return Response(_START, media_type="text/javascript", headers=GUARDED)


@router.get("/docs/{name}")
async def docs_file(name: Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]) -> Response:
    """A file of the page."""
    return FileResponse(_FILES / name, headers=_KEPT)
