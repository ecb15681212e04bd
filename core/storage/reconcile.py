"""What reconciliation reads from the journal and keeps of its rounds. Writes no order, no send and no fill.

Every method is one transaction or one read; Transient when the database is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, delete, exists, false, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from core.clock import utc_now
from core.events.envelope import Envelope
from core.storage.db import transient
from core.storage.journal import EVENTS, FILLS, ORDERS, SENDS, Journal
from core.storage.models import PositionRow, table_of
from core.storage.models_reconcile import ReconcileDayRow, ReconciliationRow
from core.trading.reconcile import Assumed, Held, LineKey, Once, Opening, Openings, Watched
from core.trading.types import Exchange, OrderStatus, Product, SendState, Side

DAYS = table_of(ReconcileDayRow)
ROUNDS = table_of(ReconciliationRow)
POSITIONS = table_of(PositionRow)

ROUNDS_KEPT = 500
AT_ONCE = 500
"""Most orders one step takes up; the next round takes the rest."""


# orders left behind ---------------------------------------------------------------------------------------------------


async def unpublished_orders(journal: Journal, older_than_s: float) -> list[UUID]:
    """Orders with an event that should have been on the log by now."""
    limit = utc_now() - timedelta(seconds=older_than_s)
    query = (
        select(EVENTS.c.order_id)
        .where(EVENTS.c.published_at.is_(None), EVENTS.c.created_at < limit)
        .group_by(EVENTS.c.order_id)
        .order_by(func.min(EVENTS.c.created_at))
        .limit(AT_ONCE)
    )
    async with transient("looking for unpublished events"), journal.engine.connect() as connection:
        return list((await connection.execute(query)).scalars())


async def open_orders(journal: Journal, account: str, target: str, older_than_s: float) -> list[dict[str, Any]]:
    """Orders that have not ended, old enough for their workflow to be there. Only the target's own: no other may be sent here."""
    limit = utc_now() - timedelta(seconds=older_than_s)
    query = (
        select(ORDERS)
        .where(
            ORDERS.c.account == account,
            ORDERS.c.target == target,
            ORDERS.c.ended_at.is_(None),
            ORDERS.c.created_at < limit,
        )
        .order_by(ORDERS.c.created_at)
    )
    async with transient("reading open orders"), journal.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def ended_and_told(journal: Journal, order_ids: Sequence[UUID], older_than_s: float) -> list[UUID]:
    """Those of these orders that ended a while ago and have nothing left to publish: their workflow should be over."""
    limit = utc_now() - timedelta(seconds=older_than_s)
    unpublished = exists().where(EVENTS.c.order_id == ORDERS.c.order_id, EVENTS.c.published_at.is_(None))
    query = select(ORDERS.c.order_id).where(ORDERS.c.order_id.in_(order_ids), ORDERS.c.ended_at < limit, ~unpublished)
    async with transient("reading ended orders"), journal.engine.connect() as connection:
        return list((await connection.execute(query)).scalars())


# our side of the book -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OurSend:
    """A send of ours that the broker's book shows, with where its order stands."""

    order_id: UUID
    send_no: int
    tag: str
    state: SendState
    broker_order_id: str | None
    status: OrderStatus
    current: bool
    """It is the order's present send."""


async def our_sends(
    journal: Journal, account: str, target: str, tags: Sequence[str], broker_order_ids: Sequence[str]
) -> list[OurSend]:
    """Sends with one of these tags, or that the broker answered with one of these ids on this target."""
    answered = and_(SENDS.c.broker_order_id.in_(broker_order_ids), ORDERS.c.target == target)
    query = (
        select(SENDS, ORDERS.c.status, (ORDERS.c.send_no == SENDS.c.send_no).label("current"))
        .join(ORDERS, ORDERS.c.order_id == SENDS.c.order_id)
        .where(SENDS.c.account == account, or_(SENDS.c.tag.in_(tags), answered))
    )
    async with transient("reading our sends"), journal.engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [
        OurSend(
            row["order_id"],
            row["send_no"],
            row["tag"],
            SendState(row["state"]),
            row["broker_order_id"],
            OrderStatus(row["status"]),
            row["current"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Booked:
    """What the journal has booked, read in one snapshot: by line, and which of the asked orders' trades (broker order, trade)."""

    held: dict[LineKey, Held]
    trades: frozenset[tuple[str, str]]


async def booked(journal: Journal, account: str, day: date, broker_order_ids: Sequence[str]) -> Booked:
    """Positions of all instances by line, the part that fills of `day` make, and the trades booked for these broker orders."""
    signed = func.sum(func.coalesce(FILLS.c.quantity, 0) * _sign(FILLS.c.side))
    today = (
        select(FILLS.c.instrument, FILLS.c.product, signed.label("quantity"))
        .where(FILLS.c.account == account, FILLS.c.trading_day == day)
        .group_by(FILLS.c.instrument, FILLS.c.product)
    )
    net = (
        select(POSITIONS.c.instrument, POSITIONS.c.product, func.sum(POSITIONS.c.quantity).label("quantity"))
        .where(POSITIONS.c.account == account)
        .group_by(POSITIONS.c.instrument, POSITIONS.c.product)
    )
    trades = select(FILLS.c.broker_order_id, FILLS.c.trade_id).where(
        FILLS.c.account == account, FILLS.c.broker_order_id.in_(broker_order_ids)
    )
    async with transient("reading what is booked"), journal.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="REPEATABLE READ")
        of_day = {_key(row): int(row.quantity) for row in await connection.execute(today)}
        of_all = {_key(row): int(row.quantity) for row in await connection.execute(net)}
        pairs = frozenset((row.broker_order_id, row.trade_id) for row in await connection.execute(trades))
    keys = {*of_day, *of_all}
    return Booked({key: Held(of_all.get(key, 0), of_day.get(key, 0)) for key in keys}, pairs)


def _sign(side: Any) -> Any:

    return case((side == Side.BUY.value, 1), else_=-1)


def _key(row: Any) -> LineKey:
    exchange, symbol = row.instrument.split(":", 1)
    return LineKey(Exchange(exchange), symbol, Product(row.product))


# the day and its rounds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Day:
    """What was seen of a trading day before this round. `openings` None: nothing yet. `rest`: the opening of the lines not named there.

    `kept_at`: when that was kept, so that a round which was frozen since does not keep over it what it saw before.
    """

    openings: Openings | None
    foreign_trades: int = 0
    rest: Opening = 0
    kept_at: datetime | None = None


_REST = "*"
"""Among a day's openings: the lines they do not name, unless they began flat for certain."""

_ASSUMED, _WEAK = "assumed", "weak"


async def load_day(journal: Journal, account: str, day: date) -> Day:
    query = select(DAYS).where(DAYS.c.account == account, DAYS.c.trading_day == day)
    async with transient("reading the day's opening"), journal.engine.connect() as connection:
        row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return Day(None)
    openings = {LineKey.parse(key): opening_of(value) for key, value in row["openings"].items() if key != _REST}
    return Day(openings, row["foreign_trades"], opening_of(row["openings"].get(_REST, 0)), row["updated_at"])


def opening_of(value: Any) -> Opening:
    """As it is kept: units; null where nothing could be told; in a list where one round alone told it, with a word where that listed no
    position; named as assumed where only such rounds did."""
    if isinstance(value, dict):
        return Assumed(int(value[_ASSUMED]))
    return Once(int(value[0]), _WEAK in value[1:]) if isinstance(value, list) else value


def kept(opening: Opening) -> Any:
    """The inverse of `opening_of`."""
    if isinstance(opening, Assumed):
        return {_ASSUMED: opening.quantity}
    if isinstance(opening, Once):
        return [opening.quantity, _WEAK] if opening.weak else [opening.quantity]
    return opening


async def store_judged(
    journal: Journal, *, round_id: UUID, account: str, day: date, began_at: datetime, found: dict[str, Any],
    openings: Openings, rest: Opening, foreign_trades: int, seen: Day,
) -> bool:  # fmt: skip
    """Keep a judged round's figures and what is known of the day's opening, together. A repeated step changes nothing more.

    False, and nothing is kept: another round has kept the day since `seen` was read. This one was frozen; what it saw is of before.
    """
    now = utc_now()
    opened = {str(key): kept(value) for key, value in openings.items()}
    if rest != 0:
        opened[_REST] = kept(rest)
    async with transient("keeping a comparison"), journal.engine.begin() as connection:
        values = {"openings": opened, "foreign_trades": foreign_trades, "updated_at": now}
        mine = DAYS.c.updated_at == seen.kept_at if seen.kept_at is not None else false()
        stored = await connection.execute(
            insert(DAYS)
            .values(account=account, trading_day=day, opened_at=now, **values)
            .on_conflict_do_update(index_elements=["account", "trading_day"], set_=values, where=mine)
            .returning(DAYS.c.account)
        )
        if stored.one_or_none() is None:
            return False
        row = {"account": account, "trading_day": day, "began_at": began_at, "judged": True, "found": found}
        await connection.execute(
            insert(ROUNDS)
            .values(round_id=round_id, **row)
            .on_conflict_do_update(
                index_elements=["round_id"], set_=row, where=ROUNDS.c.finished_at.is_(None)
            )
        )  # fmt: skip
    return True


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round as kept. `found` is empty where nothing was judged."""

    began_at: datetime
    trading_day: date
    judged: bool
    found: dict[str, Any]
    finished: bool


async def load_round(journal: Journal, round_id: UUID) -> StoredRound | None:
    async with transient("reading a round"), journal.engine.connect() as connection:
        row = (await connection.execute(select(ROUNDS).where(ROUNDS.c.round_id == round_id))).mappings().one_or_none()
    if row is None:
        return None
    return StoredRound(row["began_at"], row["trading_day"], row["judged"], row["found"], row["finished_at"] is not None)


@dataclass(frozen=True, slots=True)
class Standing:
    """What earlier rounds left: differences that stand, and when something was last judged."""

    drift: Watched
    uncovered: Watched
    blind_since: datetime | None
    blind_told: bool = False
    day: date | None = None
    """The trading day of the last judged round."""


async def load_standing(journal: Journal, account: str) -> Standing:
    """Of the account's last finished round."""
    query = (
        select(ROUNDS.c.watched)
        .where(ROUNDS.c.account == account, ROUNDS.c.finished_at.is_not(None))
        .order_by(ROUNDS.c.finished_at.desc())
        .limit(1)
    )
    async with transient("reading the last round"), journal.engine.connect() as connection:
        row = await connection.scalar(query)
    row = row or {}
    blind = row.get("blind_since")
    return Standing(
        _watched(row.get("drift")),
        _watched(row.get("uncovered")),
        datetime.fromisoformat(blind) if blind else None,
        bool(row.get("blind_told")),
        date.fromisoformat(row["day"]) if row.get("day") else None,
    )


def _watched(row: dict[str, Any] | None) -> Watched:
    if not row:
        return Watched()
    since = {name: datetime.fromisoformat(moment) for name, moment in row["since"].items()}
    return Watched(since, frozenset(row["told"]))


def _plain(watched: Watched) -> dict[str, Any]:
    since = {name: moment.isoformat() for name, moment in watched.since.items()}
    return {"since": since, "told": sorted(watched.told)}


async def finish_round(
    journal: Journal, *, round_id: UUID, account: str, day: date, began_at: datetime, judged: bool,
    standing: Standing, topic: str, event: Envelope,
) -> None:  # fmt: skip
    """Keep what stands after this round with the bytes of its event, and let go of the oldest rounds. Once a round."""
    blind = standing.blind_since
    values = {
        "finished_at": utc_now(),
        "watched": {
            "drift": _plain(standing.drift),
            "uncovered": _plain(standing.uncovered),
            "blind_since": blind.isoformat() if blind else None,
            "blind_told": standing.blind_told,
            "day": standing.day.isoformat() if standing.day else None,
        },
        "event_id": event.id,
        "topic": topic,
        "key": event.key,
        "value": event.encode(),
        "headers": [[name, value.decode()] for name, value in event.headers()],
    }
    first = {"account": account, "trading_day": day, "began_at": began_at, "judged": judged, "found": {}}
    kept = (
        select(ROUNDS.c.round_id)
        .where(ROUNDS.c.account == account)
        .order_by(ROUNDS.c.began_at.desc())
        .limit(ROUNDS_KEPT)
    )
    async with transient("keeping a round"), journal.engine.begin() as connection:
        await connection.execute(
            insert(ROUNDS)
            .values(round_id=round_id, **first, **values)
            .on_conflict_do_update(index_elements=["round_id"], set_=values, where=ROUNDS.c.finished_at.is_(None))
        )
        old = and_(ROUNDS.c.account == account, ROUNDS.c.round_id.not_in(kept), ROUNDS.c.published_at.is_not(None))
        await connection.execute(delete(ROUNDS).where(old))


@dataclass(frozen=True, slots=True)
class RoundEvent:
    """The bytes of a round's event that the log has not got yet."""

    round_id: UUID
    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


async def unpublished_rounds(journal: Journal) -> list[RoundEvent]:
    """Oldest first."""
    query = (
        select(ROUNDS)
        .where(ROUNDS.c.value.is_not(None), ROUNDS.c.published_at.is_(None))
        .order_by(ROUNDS.c.began_at)
        .limit(AT_ONCE)
    )
    async with transient("reading unpublished rounds"), journal.engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [
        RoundEvent(
            row["round_id"],
            row["topic"],
            row["key"].encode(),
            row["value"],
            tuple((name, value.encode()) for name, value in row["headers"]),
        )
        for row in rows
    ]


async def mark_published(journal: Journal, round_ids: Iterable[UUID]) -> None:
    async with transient("marking published rounds"), journal.engine.begin() as connection:
        await connection.execute(
            update(ROUNDS).where(ROUNDS.c.round_id.in_(list(round_ids))).values(published_at=utc_now())
        )
