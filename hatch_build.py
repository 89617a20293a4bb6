"""Files of the wheel that are no modules: the built web page (`make page`) and the examples.

Git ignores the page, and so does hatch without this. An installation without the page works, and says so at `/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "service/tapeworks_service/web/dist"
IN_WHEEL = "tapeworks_service/web/dist"
EXAMPLES = "tapeworks/example_files"
"""Where `tapeworks example` finds them."""


def example_files(folder: Path) -> list[Path]:
    """The specs, the components beside them, and the data that they read."""
    code = [file for file in folder.glob("*/*") if file.suffix in (".json", ".py")]
    data = [file for file in (folder / "data").rglob("*") if file.suffix != ".py"]
    found = [*folder.glob("*.json"), *code, *data]
    left_out = {folder / "packages", folder / "scripts"}
    return sorted({file for file in found if file.is_file() and file.parent not in left_out
                   and "__pycache__" not in file.parts and file.name != "make.py"})  # fmt: skip


class PageHook(BuildHookInterface[Any]):
    """Adds the page's files to what is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatch before it collects files; an editable install reads them in place."""
        if version == "editable":
            return
        included, built, examples = build_data["force_include"], Path(self.root, SOURCE), Path(self.root, "examples")
        wheel = self.target_name == "wheel"
        if (built / "index.html").is_file():
            included[str(built)] = IN_WHEEL if wheel else SOURCE
        for file in example_files(examples) if wheel else ():
            included[str(file)] = f"{EXAMPLES}/{file.relative_to(examples).as_posix()}"
