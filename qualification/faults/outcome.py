"""What a row of the fault table found, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

RECOVERY_SECONDS = 45.0
COLUMNS = (
    "database",
    "fault",
    "times",
    "jobs",
    "lost",
    "published twice",
    "worst recovery",
    "steps repeated",
    "verdict",
)


@dataclass
class Outcome:
    """Counts of one row. `problems` are in words; without any, and with counts of 0, the row holds."""

    fault: str
    times: int = 0
    jobs: int = 0
    lost: int = 0
    published_twice: int = 0
    recovery: float | None = None
    """Seconds from the fault until the job was training again, the worst."""
    repeated: int | None = None
    """Steps that were trained again, the most."""
    interval: int | None = None
    """Steps between checkpoints: `repeated` may be so many."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Figures of a row that has others than these."""

    def recovered(self, seconds: float) -> None:
        """Take a recovery into account."""
        self.recovery = max(self.recovery or 0.0, seconds)

    def again(self, steps: int) -> None:
        """Take steps that were repeated into account."""
        self.repeated = max(self.repeated or 0, steps)

    @property
    def wrong(self) -> list[str]:
        """Everything that was not as it must be."""
        found = list(self.problems)
        if self.lost:
            found.append(f"{self.lost} lost")
        if self.published_twice:
            found.append(f"{self.published_twice} published twice")
        if self.recovery is not None and self.recovery > RECOVERY_SECONDS:
            found.append(f"recovery took {self.recovery:.1f} s")
        if self.repeated is not None and self.interval is not None and self.repeated > self.interval:
            found.append(f"{self.repeated} steps repeated, {self.interval} between checkpoints")
        return found

    def cells(self, database: str) -> list[str]:
        """A line of the table."""
        recovery = "–" if self.recovery is None else f"{self.recovery:.1f} s"
        repeated = "–" if self.repeated is None else f"{self.repeated} of {self.interval}"
        verdict = "**" + "; ".join(self.wrong)[:300] + "**" if self.wrong else "; ".join(["holds", *self.notes])
        counts = [str(count) for count in (self.times, self.jobs, self.lost, self.published_twice)]
        return [database, self.fault, *counts, recovery, repeated, verdict]


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def header() -> str:
    """The table's first two lines."""
    return line(COLUMNS) + "\n" + line(["---"] * len(COLUMNS))
