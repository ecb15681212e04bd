"""Books what `alpha-panda flatten --direct` did into the journal: what of its exits closed positions of ours becomes orders of ours.

What closed somebody else's position is not booked: it stays FOREIGN, as that position was. Booked twice is booked once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core import ids, logging
from core.brokers.port import BookRow, Trade
from core.clock import utc_now
from core.flatten_file import FlattenSend, Outcome
from core.storage.db import transient
from core.storage.journal import FILLS, ORDERS, SENDS, Journal
from core.storage.models import table_of
from core.storage.models_flatten import FlattenBookedRow
from core.trading.orders import SeenFill, SeenOrder
from core.trading.types import Intent, OrderStatus, OrderType, Product, SendState, Validity

BOOKED = table_of(FlattenBookedRow)

SOURCE = "flatten"
"""`source` and requester of the orders booked here."""

Key = tuple[str, Product]
"""A position at the broker: the instrument's name (`NSE:INFY`) and the product."""

CLOCKS = timedelta(seconds=5)
"""How far the exchange's times and ours may be apart."""

ON_ITS_WAY = timedelta(minutes=2)
"""So long after its deadline a send may still turn up in the book."""

PART = "~"
"""Between a trade's id and the number of its part, where one trade closed positions of several instances."""

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A send that ended at the broker with fills."""

    send: FlattenSend
    broker_order_id: str
    trades: tuple[SeenFill, ...]


def ended_in_file(sends: Iterable[FlattenSend], account: str, target: str) -> list[Ended]:
    """Sends of this account whose end and trades the file holds."""
    return [
        Ended(send, send.broker_order_id, send.trades)
        for send in sends
        if _of(send, account, target) and send.outcome is Outcome.ENDED and send.broker_order_id and send.trades
    ]


def ended_in_book(
    sends: Iterable[FlattenSend],
    account: str,
    target: str,
    rows: Sequence[BookRow],
    trades: Mapping[str, Sequence[Trade]],
) -> list[Ended]:
    """Sends whose end the file does not hold (it was killed before) and the broker's book shows, with all their trades."""
    by_tag = {tag: row for row in rows for tag in row.tags}
    found: list[Ended] = []
    for send in sends:
        row = by_tag.get(send.line.tag)
        if row is None or not _of(send, account, target) or send.outcome is Outcome.ENDED:
            continue
        listed = trades.get(row.broker_order_id, ())
        if row.is_end and row.filled_quantity and sum(trade.quantity for trade in listed) >= row.filled_quantity:
            fills = tuple(SeenFill(t.trade_id, t.quantity, t.price, t.filled_at) for t in listed)
            found.append(Ended(send, row.broker_order_id, fills))
    return found


async def to_be_booked(
    journal: Journal, sends: Iterable[FlattenSend], account: str, target: str, rows: Sequence[BookRow]
) -> frozenset[Key]:
    """Positions in which flatten closed something, or may have, that is not booked yet: what the journal says of them is too much.

    Raises:
        Transient: the database is away.
    """
    by_tag = {tag: row for row in rows for tag in row.tags}
    there = {send.line.tag: send.key for send in sends if _of(send, account, target) and _may_have_filled(send, by_tag)}
    if not there:
        return frozenset()
    query = select(BOOKED.c.tag).where(BOOKED.c.tag.in_(list(there)))
    async with transient("looking for exits of flatten"), journal.engine.connect() as connection:
        done = set((await connection.execute(query)).scalars())
    return frozenset(key for tag, key in there.items() if tag not in done)


def _may_have_filled(send: FlattenSend, by_tag: Mapping[str, BookRow]) -> bool:
    if not send.is_open:
        return bool(send.trades)
    row = by_tag.get(send.line.tag)
    if row is None:
        return utc_now() - send.line.deadline_at < ON_ITS_WAY
    return row.filled_quantity > 0 or not row.is_end


def _of(send: FlattenSend, account: str, target: str) -> bool:
    return (send.line.account, send.line.target) == (account, target)


@dataclass(frozen=True, slots=True)
class Flattened:
    """`orders`: those booked by this call. `waiting`: positions in which something was flattened and cannot be booked yet."""

    orders: tuple[UUID, ...] = ()
    waiting: frozenset[Key] = frozenset()


async def book_flattened(journal: Journal, ended: Iterable[Ended], unsettled: Collection[Key] = ()) -> Flattened:
    """Make orders of what closed positions of ours, and fold their fills.

    How much of it was ours is judged once, by our fills before it: so not while there may be some that are not booked yet. `unsettled`
    are positions where the broker shows such fills; an order of ours that has not ended holds its position back too.

    Raises:
        Transient: the database is away; ask again.
    """
    booked: list[UUID] = []
    waiting: set[Key] = set()
    for one in ended:
        shares = await _shares(journal, one, waits=one.send.key in unsettled)
        if shares is None:
            waiting.add(one.send.key)
            log.info("an exit of flatten --direct waits for our own fills", tag=one.send.line.tag)
            continue
        for order_id, fills in _parts(shares, one.trades):
            filled = sum(fill.quantity for fill in fills)
            seen = SeenOrder(True, OrderStatus.FILLED, filled, filled, None)
            found = await journal.fold(order_id, one.broker_order_id, seen, fills)
            if found.steps:
                booked.append(order_id)
                log.warning(
                    "booked an exit of flatten --direct",
                    broker=journal.broker.value,
                    order_id=str(order_id),
                    tag=one.send.line.tag,
                    instance=found.order["instance"],
                    quantity=filled,
                )
    return Flattened(tuple(booked), frozenset(waiting))


async def _shares(journal: Journal, one: Ended, *, waits: bool) -> list[tuple[UUID, int]] | None:
    """Orders of this send with what each took, as decided when it was booked first: largest position first.

    Judged by what each instance held when the send's first trade happened, so it does not matter how much later it is booked. None: it
    was not judged before, and cannot be yet.
    """
    line, total = one.send.line, sum(fill.quantity for fill in one.trades)
    async with transient("booking an exit of flatten"), journal.engine.begin() as connection:
        if await connection.scalar(select(BOOKED.c.tag).where(BOOKED.c.tag == line.tag)) is not None:
            return await _known(connection, one)
        if waits or await connection.scalar(_under_way(one)) is not None:
            return None
        marked = insert(BOOKED).values(
            tag=line.tag,
            account=line.account,
            broker_order_id=one.broker_order_id,
            total=total,
            ours=0,
            booked_at=utc_now(),
        )
        is_new = (await connection.execute(marked.on_conflict_do_nothing().returning(BOOKED.c.tag))).one_or_none()
        if is_new is None:
            return await _known(connection, one)
        left = total
        shares: list[tuple[UUID, int]] = []
        for held, template in await _holders(connection, one):
            quantity = min(held, left)
            if quantity > 0:
                shares.append((await _insert(connection, one, template, quantity, len(shares)), quantity))
                left -= quantity
        await connection.execute(update(BOOKED).where(BOOKED.c.tag == line.tag).values(ours=total - left))
        return shares


def _under_way(one: Ended) -> Select[Any]:
    """A send of ours in the same position that left before the exit's last trade and may have fills which are not booked."""
    line = one.send.line
    until = max(fill.filled_at for fill in one.trades) + CLOCKS
    return (
        select(SENDS.c.tag)
        .join(ORDERS, ORDERS.c.order_id == SENDS.c.order_id)
        .where(
            ORDERS.c.account == line.account,
            ORDERS.c.instrument == f"{line.exchange}:{line.tradingsymbol}",
            ORDERS.c.product == line.product.value,
            SENDS.c.claimed_at <= until,
            or_(
                and_(
                    ORDERS.c.ended_at.is_(None),
                    SENDS.c.state.in_((SendState.SENDING, SendState.SENT, SendState.UNKNOWN)),
                ),
                SENDS.c.state == SendState.LATE,
            ),
        )
        .limit(1)
    )


async def _known(connection: AsyncConnection, one: Ended) -> list[tuple[UUID, int]]:
    query = select(ORDERS.c.order_id, ORDERS.c.quantity).where(ORDERS.c.correlation_id == _cause(one))
    rows = {row.order_id: row.quantity for row in await connection.execute(query)}
    ordered = (ids.derive(_cause(one), "order", number) for number in range(len(rows)))
    return [(order_id, rows[order_id]) for order_id in ordered]


async def _holders(connection: AsyncConnection, one: Ended) -> list[tuple[int, dict[str, Any]]]:
    """Instances that held what the send closed, largest first: units, and an order of theirs to take the instrument's facts from."""
    line = one.send.line
    until = min(fill.filled_at for fill in one.trades)
    signed = func.sum(case((FILLS.c.side == line.side.opposite.value, FILLS.c.quantity), else_=-FILLS.c.quantity))
    query = (
        select(FILLS.c.instance, signed.label("held"))
        .where(
            FILLS.c.account == line.account,
            FILLS.c.instrument == f"{line.exchange}:{line.tradingsymbol}",
            FILLS.c.product == line.product.value,
            FILLS.c.filled_at <= until,
        )
        .group_by(FILLS.c.instance)
        .having(signed > 0)
        .order_by(signed.desc(), FILLS.c.instance)
    )
    found: list[tuple[int, dict[str, Any]]] = []
    for row in (await connection.execute(query)).all():
        latest = (
            select(ORDERS)
            .where(
                ORDERS.c.instance == row.instance,
                ORDERS.c.instrument == f"{line.exchange}:{line.tradingsymbol}",
                ORDERS.c.product == line.product.value,
            )
            .order_by(ORDERS.c.created_at.desc())
            .limit(1)
        )
        found.append((int(row.held), dict((await connection.execute(latest)).mappings().one())))
    return found


_COPIED = (
    "strategy_id", "instance", "account", "target", "instrument", "instrument_token", "instrument_type", "exchange",
    "tradingsymbol", "lot_size", "tick_size", "product",
)  # fmt: skip


async def _insert(connection: AsyncConnection, one: Ended, like: dict[str, Any], quantity: int, number: int) -> UUID:
    """A PENDING order with a send that has left, as the claim would have written it."""
    line, now = one.send.line, utc_now()
    order_id = ids.derive(_cause(one), "order", number)
    values = {name: like[name] for name in _COPIED} | {
        "order_id": order_id,
        "signal_id": ids.derive(_cause(one), "signal", number),
        "correlation_id": _cause(one),
        "source": SOURCE,
        "requested_by": SOURCE,
        "side": line.side.value,
        "intent": Intent.EXIT.value,
        "order_type": OrderType.MARKET.value,
        "validity": Validity.DAY.value,
        "quantity": quantity,
        "status": OrderStatus.PENDING.value,
        "broker_order_id": one.broker_order_id,
        "origin_at": line.at,
        "age_limit_s": 60.0,
        "created_at": now,
        "updated_at": now,
    }
    await connection.execute(insert(ORDERS).values(**values))
    await connection.execute(
        insert(SENDS).values(
            order_id=order_id,
            send_no=1,
            tag=line.tag if number == 0 else ids.order_tag(order_id, 1),
            state=SendState.SENT.value,
            account=line.account,
            trading_day=line.trading_day,
            quantity=quantity,
            claimed_at=line.at,
            deadline_at=line.deadline_at,
            answered_at=now,
            answer="sent by `flatten --direct`",
            broker_order_id=one.broker_order_id,
        )
    )
    return order_id


def _parts(
    shares: Sequence[tuple[UUID, int]], trades: Sequence[SeenFill]
) -> Iterable[tuple[UUID, tuple[SeenFill, ...]]]:
    """Each order's fills: the trades in order of time, cut where one order's share ends."""
    rest = [(fill, fill.quantity, 0) for fill in sorted(trades, key=lambda one: (one.filled_at, one.trade_id))]
    for order_id, share in shares:
        fills: list[SeenFill] = []
        while share > 0:
            fill, left, part = rest.pop(0)
            taken = min(left, share)
            name = fill.trade_id if part == 0 else f"{fill.trade_id}{PART}{part}"
            fills.append(SeenFill(name, taken, fill.price, fill.filled_at))
            share -= taken
            if left > taken:
                rest.insert(0, (fill, left - taken, part + 1))
        yield order_id, tuple(fills)


def _cause(one: Ended) -> UUID:
    line = one.send.line
    return ids.derive_at(line.at, SOURCE, line.account, line.tag)


async def not_ours(journal: Journal, broker_order_ids: Sequence[str]) -> dict[str, int]:
    """Those of these broker orders that flatten sent and that are booked, with how many units of each closed what was not ours."""
    query = select(BOOKED.c.broker_order_id, BOOKED.c.total - BOOKED.c.ours).where(
        BOOKED.c.broker_order_id.in_(broker_order_ids)
    )
    async with transient("reading what flatten closed"), journal.engine.connect() as connection:
        return {row[0]: int(row[1]) for row in await connection.execute(query)}
