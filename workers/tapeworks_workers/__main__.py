"""`python -m tapeworks_workers`: a worker without the rest of the CLI."""

import typer

from tapeworks_workers.commands import worker

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(worker)
    app()
