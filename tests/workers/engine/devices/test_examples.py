"""Every example of the guide starts on two devices, or is refused with a reason."""

import json
from typing import Any

import pytest

from examples.serving import DATA, EXAMPLES
from tests.support.two_devices import TwoDevices

IN_BATCH = {
    "losses/triplet.json", "losses/triplet_cosine.json", "losses/nt_xent.json", "metrics/gallery.json",
    "packages/tinymetric/job.json", "several-models/contrastive.json",
}  # fmt: skip
"""They compare the examples of a batch with each other."""
OWN_STATE = {"tracing/eager.json", "tracing/guarded.json"}
"""Their step assigns a variable of its own from the loss of its rows."""


def specs() -> dict[str, Any]:
    """Those that need no earlier job."""
    found = {}
    for file in sorted(EXAMPLES.rglob("*.json")):
        if DATA not in file.parents and isinstance(document := json.loads(file.read_text()), dict):
            if "data" in document and '.json"' not in json.dumps(document):
                found[str(file.relative_to(EXAMPLES))] = document
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", specs())
def test_an_example_starts_on_two_devices_or_is_refused(two_devices: TwoDevices, name: str) -> None:
    found = two_devices.ask("traced", specs()[name])
    assert found["code"] == ("not_supported" if name in IN_BATCH | OWN_STATE else None), found
