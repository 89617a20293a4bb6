"""`python -m tapeworks_workers`: a worker without the rest of the CLI."""

import typer

from tapeworks_workers.commands import worker

if __name__ == "__main__":
    typer.run(worker)
