"""Whether workers have what a package depends on: nothing is installed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


def unmet(requires: Sequence[str], workers: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """What is missing, and what to do: of the worker that has most of it. `workers`: name → version of each."""
    lacking = [[one for text in requires if (one := _lacks(text, installed))] for installed in workers]
    return min(lacking, key=len, default=[])


def _lacks(text: str, installed: Mapping[str, str]) -> tuple[str, str] | None:
    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        return f"the dependency {text[:200]!r} cannot be read: {error}", "Write it as `name>=1.2`."
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return None
    name = canonicalize_name(wanted.name)
    if wanted.url is not None:
        return f"the dependency {name} refers to an address", "Only what workers have installed can be used."
    version = installed.get(name)
    if version is None:
        return (
            f"no worker has the dependency {name}",
            "Ask the operator to install it, or include its code in the package.",
        )
    if not wanted.specifier.contains(version, prereleases=True):
        return f"the workers have {name} {version}, not {wanted.specifier}", "Require the installed version."
    return None
