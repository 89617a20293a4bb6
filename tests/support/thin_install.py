"""`python -m tests.support.thin_install ARGUMENTS`: the command line as an installation without extras has it.

Modules that only an extra brings are not found; everything else is as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

OF_EXTRAS = frozenset({
    "adbc_driver_manager", "adbc_driver_postgresql", "adbc_driver_sqlite", "aiosqlite", "alembic", "asyncpg", "click",
    "fastapi", "fastapi_offline", "keras", "numpy", "obstore", "packaging", "PIL", "prometheus_client", "psutil",
    "pyarrow", "pynvml", "scipy", "sklearn", "sqlalchemy", "sse_starlette", "starlette", "tensorflow", "uvicorn",
})  # fmt: skip


class BaseDependencies:
    """Finds what `PathFinder` finds, but for the modules of extras."""

    find_distributions = staticmethod(PathFinder.find_distributions)

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for a module of an extra."""
        return None if name.partition(".")[0] in OF_EXTRAS else PathFinder.find_spec(name, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = [BaseDependencies if finder is PathFinder else finder for finder in sys.meta_path]
    from tapeworks.cli.main import app

    app(prog_name="tapeworks")
