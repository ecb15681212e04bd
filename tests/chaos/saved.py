"""A run's facts on disk, so that a verdict can be had again from them: `python -m tests.chaos.saved HOME`. Never changes them.

The file is read back by the same code on the same machine alone; it is no format.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from uuid import UUID

from core.trading.types import Broker
from docker.native.layout import write_private
from tests.chaos import referee
from tests.chaos.facts import Facts
from tests.chaos.plan import Planned
from tests.chaos.timeline import timeline

NAME = "facts.pickle"
SHOWN = 12
"""Breaches told with their whole timeline; the rest in one line each."""

Case = tuple[tuple[Planned, ...], dict[UUID, datetime], dict[Broker, Facts]]


def keep(home: Path, intents: tuple[Planned, ...], published: dict[UUID, datetime], facts: dict[Broker, Facts]) -> None:
    """Write them into the run's home."""
    (home / NAME).unlink(missing_ok=True)
    write_private(home / NAME, "")
    (home / NAME).write_bytes(pickle.dumps((intents, published, facts)))


def read(home: Path) -> Case:
    """What `keep` wrote."""
    found: Case = pickle.loads((home / NAME).read_bytes())  # noqa: S301 the run's own file, private to its owner
    return found


def told(
    number: int, order_id: UUID | None, broker: Broker, intents: tuple[Planned, ...], published: Mapping[UUID, datetime],
    facts: Mapping[Broker, Facts], logs: Path,
) -> list[str]:  # fmt: skip
    """The timeline of a breach's order; empty for those beyond the first few and for those of no single order."""
    if order_id is None or number >= SHOWN:
        return []
    one = next((one for one in intents if one.order_id == order_id), None)
    return timeline(order_id, one, published.get(one.signal_id) if one else None, facts[broker], logs)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    case = read(where)
    verdict = referee.judge(*case)
    for place, breach in enumerate(verdict.breaches):
        sys.stdout.write(f"BREACH {breach.broker} {breach.order_id or ''} {breach.what}\n")
        for line in told(place, breach.order_id, breach.broker, *case, where / "var" / "log"):
            sys.stdout.write(f"{line}\n")
    sys.stdout.write(
        f"{len(verdict.breaches)} breaches; unsent {dict(verdict.unsent)}; beyond the plan {dict(verdict.beyond_plan)}\n"
    )
