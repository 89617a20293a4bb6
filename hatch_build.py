"""The built web page goes into the wheel and the source archive where it was built: `make page`.

Git ignores it, and so does hatch without this. An installation without the page works, and says so at `/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "service/tapeworks_service/web/dist"
IN_WHEEL = "tapeworks_service/web/dist"


class PageHook(BuildHookInterface[Any]):
    """Adds the page's files to what is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatch before it collects files; an editable install reads them in place."""
        built = Path(self.root, SOURCE)
        if version != "editable" and (built / "index.html").is_file():
            build_data["force_include"][str(built)] = IN_WHEEL if self.target_name == "wheel" else SOURCE
