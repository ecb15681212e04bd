"""Which waiting alerts are told now, and in what words. Pure: no clock, no channel, no database.

At most one message a minute a kind on each channel; what came meanwhile is counted in it. Nothing is ever left out silently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from uuid import UUID

from core.alerting.kinds import Severity, severity_of
from core.clock import to_ist

EVERY = timedelta(minutes=1)
"""Between two messages of a kind on a channel."""

SAME = timedelta(minutes=10)
"""An alert with the kind, subject and message of one this young repeats it and is not told."""

KEPT_TRYING = timedelta(hours=24)
"""An alert older than this is not told any more: history shows it as failed."""

UNKNOWN = "order_unknown"
UNKNOWN_FOR = timedelta(seconds=10)
"""An order without an answer is told only when it still has none after this long."""

LISTED = 5
"""Further alerts whose words a message holds; beyond these they are counted."""

MOST_CHARACTERS = 300
"""Of one alert in a message: channels cut long ones."""


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From one time of day to another, IST; may span midnight."""

    begins: time
    ends: time

    @classmethod
    def parse(cls, text: str) -> QuietHours | None:
        """`22:00-07:00`; None for an empty text.

        Raises:
            ValueError: anything else, naming what is right.
        """
        if not text.strip():
            return None
        try:
            begins, ends = (time.fromisoformat(part.strip()) for part in text.split("-"))
        except ValueError:
            raise ValueError("write quiet hours as 22:00-07:00 (IST), or leave them empty") from None
        if begins == ends:
            raise ValueError("quiet hours that end when they begin are all day or never: write 22:00-07:00, or nothing")
        return cls(begins, ends)

    def holds(self, moment: datetime) -> bool:
        wall = to_ist(moment).time()
        if self.begins < self.ends:
            return self.begins <= wall < self.ends
        return wall >= self.begins or wall < self.ends


@dataclass(frozen=True, slots=True)
class Waiting:
    """An alert one channel has not told yet. `attempts`: how often it was tried."""

    alert_id: UUID
    kind: str
    subject: str
    message: str
    action: str
    at: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """One message: alerts of one kind, the oldest first."""

    kind: str
    alerts: tuple[Waiting, ...]

    @property
    def lead(self) -> Waiting:
        return self.alerts[0]

    @property
    def severity(self) -> Severity:
        return severity_of(self.kind)


def due(
    waiting: Sequence[Waiting], last_told: Mapping[str, datetime], quiet: QuietHours | None, now: datetime
) -> list[Bundle]:
    """What a channel tells now, the gravest first. `last_told`: kind → when a message of it last went out on this channel."""
    by_kind: dict[str, list[Waiting]] = defaultdict(list)
    for alert in sorted(waiting, key=lambda each: each.at):
        if alert.kind != UNKNOWN or now - alert.at >= UNKNOWN_FOR:
            by_kind[alert.kind].append(alert)
    found = []
    for kind, alerts in by_kind.items():
        silent = quiet is not None and quiet.holds(now) and severity_of(kind) is not Severity.CRITICAL
        told = last_told.get(kind)
        if not silent and (told is None or now - told >= EVERY):
            found.append(Bundle(kind, tuple(alerts)))
    gravity = list(reversed(Severity))
    return sorted(found, key=lambda bundle: (gravity.index(bundle.severity), bundle.lead.at))


def title(bundle: Bundle, where: str) -> str:
    """One line; `where` says which deployment, and SIMULATED where prices are."""
    return _line(f"{bundle.severity.upper()}: {bundle.kind.replace('_', ' ')} · Alpha Panda ({where})")


def body(bundle: Bundle) -> str:
    """The oldest alert in full, then the others, then how many more there are."""
    lead, others = bundle.lead, bundle.alerts[1:]
    lines = [_line(lead.message), f"Do: {_line(lead.action)}", f"{_when(lead.at)} · {_line(lead.subject)}"]
    if others:
        lines += ["", f"and {len(others)} more:"]
        lines += [f"- {_when(each.at)} {_line(each.message)}" for each in others[:LISTED]]
    if len(others) > LISTED:
        lines.append(f"- … {len(others) - LISTED} of them only in `alpha-panda alerts list`")
    return "\n".join(lines)


def _when(moment: datetime) -> str:
    return f"{to_ist(moment):%d %b %H:%M:%S} IST"


def _line(text: str) -> str:
    """One line without control characters: what becomes a mail's subject or a header must not hold another one."""
    flat = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return flat if len(flat) <= MOST_CHARACTERS else flat[: MOST_CHARACTERS - 1] + "…"
