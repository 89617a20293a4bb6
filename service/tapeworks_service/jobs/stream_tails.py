"""The last entries of streams as they went out, for the others who follow the same job."""

from __future__ import annotations

from collections import OrderedDict

from tapeworks_service.single_flight import SingleFlight

_MOST = 256

Place = tuple[str, str, str, int, int]
"""The stream, the project, the job, the number after which they begin, and the last there was."""
StreamMessages = list[tuple[int, str]]
"""Each entry's number and its JSON."""


class StreamTailCache:
    """Entries between two numbers never change: they are only forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[Place, StreamMessages] = OrderedDict()
        self.reading: SingleFlight[Place, StreamMessages] = SingleFlight()
        """Those that are not known yet."""

    def get(self, place: Place) -> StreamMessages | None:
        """What was sent for a place."""
        return self._known.get(place)

    def put(self, place: Place, messages: StreamMessages) -> None:
        """Keep it, and let the oldest go."""
        self._known[place] = messages
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
