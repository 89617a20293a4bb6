"""`python -m tapeworks_service`: the service alone, with its settings from the environment."""

from __future__ import annotations

import sys

from tapeworks_service.server import run
from tapeworks_service.settings import StartRefused, read_settings

if __name__ == "__main__":
    try:
        run(read_settings())
    except StartRefused as refusal:
        sys.exit(f"tapeworks_service: {refusal}")
