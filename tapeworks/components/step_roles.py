"""What a step declares, as the catalogue tells it: roles, optimizers, losses."""

from __future__ import annotations

import dis
from typing import Any

from pydantic import JsonValue

from tapeworks.components.interfaces import TrainingStep

DECLARATIONS = ("models", "optimizers", "losses", "optional_losses", "frozen")


def declared_roles(step: type[TrainingStep]) -> dict[str, JsonValue] | None:
    """`{models, optimizers, losses, optional_losses, frozen, validation_step}`.

    None where `__init__` or a property decides.
    """
    if _set_in_init(step) or any(isinstance(getattr(step, name), property) for name in DECLARATIONS):
        return None
    return {
        "models": list(step.models),
        "optimizers": {name: list(roles) for name, roles in step.optimizers.items()},
        "losses": list(step.losses),
        "optional_losses": list(step.optional_losses),
        "frozen": list(step.frozen),
        "validation_step": step.can_validate(),
    }


def _set_in_init(step: type[Any]) -> bool:
    """Whether an `__init__` of the class assigns one of the declarations."""
    for base in step.__mro__:
        code = getattr(vars(base).get("__init__"), "__code__", None)
        if code is not None and any(
            instruction.opname == "STORE_ATTR" and instruction.argval in DECLARATIONS
            for instruction in dis.get_instructions(code)
        ):
            return True
    return False
