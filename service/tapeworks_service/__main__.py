"""`python -m tapeworks_service`: the service alone, with its settings from the environment."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from tapeworks_service.server import run
from tapeworks_service.settings import ServiceSettings, StartRefused

if __name__ == "__main__":
    try:
        run(ServiceSettings())
    except (StartRefused, ValidationError) as refusal:
        sys.exit(f"tapeworks_service: {refusal}")
