"""Which instruments the feed must subscribe: those of active strategies, of open orders and of positions that are not flat.

Never drops an instrument silently: a name the day's dump does not have is reported with who needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import StopTheStart
from core.storage.db import transient
from core.storage.models import OrderRow, PositionRow
from core.storage.strategies import load_strategies
from core.trading.instruments import InstrumentBook
from core.trading.types import Broker
from streams.feed_socket import MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Need:
    """`instrument` by name (`NSE:INFY`); `who` in words: "strategy momentum-demo", "open orders of paper"."""

    instrument: str
    who: str
    by_strategy: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to subscribe. `missing` are names the dump does not have, `over` what does not fit on one connection."""

    tokens: frozenset[int]
    missing: tuple[Need, ...]
    over: tuple[Need, ...]


async def read_needs(config: AsyncEngine, journals: Mapping[Broker, AsyncEngine]) -> list[Need]:
    """Everything needed now, the most important first: positions, open orders, then strategies.

    Raises:
        Transient: the database is away.
    """
    held: list[Need] = []
    for broker, engine in journals.items():
        positions = select(PositionRow.instrument).distinct().where(PositionRow.quantity != 0)
        orders = select(OrderRow.instrument).distinct().where(OrderRow.ended_at.is_(None))
        held += [Need(name, f"positions of {broker}", False) for name in await _names(engine, positions)]
        held += [Need(name, f"open orders of {broker}", False) for name in await _names(engine, orders)]
    held.sort(key=lambda need: need.who.startswith("open orders"))
    return held + [
        Need(name, f"strategy {row.strategy_id}", True)
        for row in await load_strategies(config)
        if row.active
        for name in row.instruments
    ]


async def _names(engine: AsyncEngine, query: Select[str]) -> Sequence[str]:
    async with transient("reading which instruments are held"), engine.connect() as connection:
        return (await connection.execute(query)).scalars().all()


def resolve(needs: Iterable[Need], book: InstrumentBook, limit: int = MAX_TOKENS) -> Wanted:
    """Names to today's tokens, at most `limit`, in the order of the needs."""
    tokens: set[int] = set()
    missing: list[Need] = []
    over: list[Need] = []
    for need in needs:
        found = book.by_key(need.instrument)
        if found is None:
            missing.append(need)
        elif found.instrument_token in tokens or len(tokens) < limit:
            tokens.add(found.instrument_token)
        else:
            over.append(need)
    return Wanted(frozenset(tokens), tuple(missing), tuple(over))


def check_start(wanted: Wanted) -> None:
    """At the start, a strategy whose instrument does not exist or does not fit is a person's to mend.

    Raises:
        StopTheStart: naming every such strategy and instrument.
    """
    missing = [need for need in wanted.missing if need.by_strategy]
    if missing:
        lines = [f"  {need.who}: {need.instrument}" for need in missing]
        raise StopTheStart(
            "These instruments are not in today's dump of the exchange:\n"
            + "\n".join(lines)
            + "\nMend the strategy's instruments (an expired contract?) or make it inactive, and start again."
        )
    if wanted.over:
        who = sorted({need.who for need in wanted.over})
        raise StopTheStart(
            f"{len(wanted.tokens) + len({need.instrument for need in wanted.over})} instruments are needed, but Kite serves "
            f"{MAX_TOKENS} on one connection; these do not fit: {', '.join(who)}. Make some strategies inactive."
        )
