"""A plan on several devices: what it runs begins with copies of the weights as they are."""

from __future__ import annotations

from typing import Any

from tapeworks_workers.engine.devices.devices import Devices


class SeveralDevicesPlan:
    """`steps` or `loop`, whose steps each device runs on its rows."""

    def __init__(self, plan: Any, devices: Devices) -> None:
        self.name, self.kept, self.gathers = plan.name, plan.kept, plan.gathers
        self._plan, self._devices = plan, devices

    def run(self, batches: Any, steps: int) -> int:
        """See `Plan.run`. Between two calls anything may change weights: a restore, averages, early stopping."""
        self._devices.renew()
        done: int = self._plan.run(batches, steps)
        return done
