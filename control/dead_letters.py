"""Dead letters: which are meant, send them again as they were, or close them. Judged each at its own moment.

Never replays real money's signals without force, and never once they are too old to act on.
"""

from __future__ import annotations

from collections.abc import Sequence

from control.acts import Act
from control.connections import Connections
from core.clock import utc_now
from core.errors import StopTheStart
from core.messaging import dlq_letters
from core.messaging.dlq_letters import Letter, Wanted
from core.storage.strategies import load_strategies


class UnknownLetter(StopTheStart):
    """No such dead letter."""


async def letters(links: Connections) -> list[Letter]:
    """Every letter the log still has, the oldest first. Raises Transient."""
    return await dlq_letters.read_letters(links.settings, links.config)


def named(found: Sequence[Letter], names: Sequence[str]) -> list[Letter]:
    """Raises UnknownLetter naming what there is not."""
    by_name = {letter.name: letter for letter in found}
    if missing := [name for name in names if name not in by_name]:
        raise UnknownLetter(f"No such dead letter: {', '.join(missing)}. `alpha-panda dlq list` names them.")
    return [by_name[name] for name in names]


def pick(found: Sequence[Letter], wanted: Wanted) -> list[Letter]:
    """The open letters that are meant.

    Raises:
        StopTheStart: nothing was said, or a letter named does not exist or is closed.
    """
    if wanted.everything:
        raise StopTheStart("Say which letters: name them, or give --topic, --reason, --since or --until.")
    for letter in named(found, sorted(wanted.names)):
        if letter.closed is not None:
            raise StopTheStart(f"{letter.name} was {letter.closed.action} by {letter.closed.by} already.")
    return [letter for letter in found if letter.closed is None and wanted.matches(letter)]


async def replay(
    links: Connections, act: Act, meant: Sequence[Letter], *, force: bool, really: bool = True
) -> list[tuple[Letter, str]]:
    """Send each letter again where that may be; says what became of each. Raises Transient: those not named are still open."""
    limits = {row.strategy_id: row.age_limit_s for row in await load_strategies(links.config)}
    outcomes: list[tuple[Letter, str]] = []
    for letter in meant:  # judged just before it is sent
        refused = dlq_letters.refusal(letter, force=force, now=utc_now(), age_limits=limits)
        if refused is None and really:
            await dlq_letters.replay(links.producer, links.config, letter, by=act.by, note=act.reason)
            await act.note(links.config, "dlq.replay", letter.name, before=_told(letter), after={"state": "REPLAYED"})
        outcomes.append((letter, f"refused: {refused}" if refused else "replayed" if really else "would be replayed"))
    return outcomes


async def drop(links: Connections, act: Act, meant: Sequence[Letter]) -> list[tuple[Letter, str]]:
    """Close each letter without sending it. Raises Transient: those not recorded yet are still open."""
    for letter in meant:
        await dlq_letters.drop(links.config, [letter], by=act.by, note=act.reason)
        await act.note(links.config, "dlq.drop", letter.name, before=_told(letter), after={"state": "DROPPED"})
    return [(letter, "dropped") for letter in meant]


def _told(letter: Letter) -> dict[str, str | None]:
    """What the audit holds of a letter."""
    return {"state": "OPEN", "event_id": letter.event_id, "reason": letter.reason}
