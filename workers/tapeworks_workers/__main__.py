"""`python -m tapeworks_workers`: a worker without the rest of the CLI."""

import sys
from typing import Any

# httpx and structlog import Rich for what an agent never shows: 5 MiB of it for as long as it runs.
absent: dict[str, Any] = {"rich": None, "pygments": None}
sys.modules.update(absent)

import typer  # noqa: E402

from tapeworks_workers.cli.worker import worker  # noqa: E402

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(worker)
    app()
