"""Acting on orders: cancel, modify, resolve, and an order of a person's own. Journalled with who and why before anything is sent.

Never says that something happened before the broker's book, or its certain refusal, does; a manual order meets risk like any other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from control.acts import Act
from control.connections import Connections
from core.clock import trading_day, utc_now
from core.errors import CommandRefused, Transient
from core.events import topics
from core.events.envelope import EventType, make
from core.order_commands import tell
from core.storage import views
from core.storage.audit import Outcome
from core.storage.command_journal import CommandJournal, Dossier, dossier, find_orders
from core.storage.commands import CommandRecord, read_command, request_command
from core.storage.instruments import load_book
from core.storage.journal import NoSuchOrder
from core.storage.lookups import has_order
from core.storage.strategies import load_strategies
from core.storage.strategy_changes import UnknownStrategy
from core.trading.commands import PERSONS_AGE_S, Changes, CommandKind, refusals
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Intent, OrderStatus, OrderType, Product, Side, Validity

MANUAL_SOURCE = "manual"
"""`source` of a signal that a person or program asked for by hand."""

ASK_EVERY_S = 0.1

GONE = "the order's workflow does not run; reconciliation starts it again within a minute, with this command"

Check = Callable[[AsyncEngine, Broker, UUID], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Commanded:
    """A journalled command, and why its order's workflow was not told, if so."""

    broker: Broker
    record: CommandRecord
    note: str | None = None


async def find(links: Connections, text: str) -> tuple[Broker, UUID]:
    """The one order of an active broker whose id ends so.

    Raises:
        CommandRefused: there is none, or several. Transient: the database is away.
    """
    brokers = links.settings.active_brokers
    found = [(broker, one) for broker in brokers for one in await find_orders(links.journal(broker), text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandRefused(
            f"No active broker's journal has an order whose id ends with {text!r}: see `alpha-panda orders`."
        )
    raise CommandRefused(f"Several orders end with {text!r}: give more of the id (`alpha-panda orders --json`).")


async def whose(links: Connections, order_id: UUID) -> Broker:
    """The broker whose journal has this order. Raises NoSuchOrder, Transient."""
    for broker in links.settings.active_brokers:
        if await has_order(links.journal(broker), order_id):
            return broker
    raise NoSuchOrder(f"No active broker's journal has order {order_id}.")


async def command(
    links: Connections,
    act: Act,
    broker: Broker,
    order_id: UUID,
    kind: CommandKind,
    parameters: dict[str, Any],
    check: Check | None = None,
) -> Commanded:
    """Check, journal, tell the order's workflow. The same request id again is the same command, as it stands by then.

    Raises:
        CommandRefused: `check` refuses it; nothing was journalled. NoSuchOrder, CommandConflict.
        Transient: the database is away.
    """
    engine = links.journal(broker)
    if await read_command(engine, act.request_id) is None:
        if check is not None:
            await check(engine, broker, order_id)
        subject = f"{broker} order {order_id}"
        await act.note(links.config, f"order.{kind.lower()}", subject, outcome=Outcome.ASKED, after=parameters)
    record = await request_command(
        engine,
        request_id=act.request_id,
        order_id=order_id,
        kind=kind,
        parameters=parameters,
        requested_by=act.by,
        reason=act.reason,
    )
    try:
        record = await tell(await links.temporal(), broker, record)
    except Transient as error:
        return Commanded(broker, record, f"{error}; reconciliation tells the order's workflow once Temporal is back")
    return Commanded(broker, record, GONE if record.workflow_gone else None)


def modifiable(changes: Changes) -> Check:
    """Refuses a change the order cannot take, naming each field."""

    async def check(engine: AsyncEngine, broker: Broker, order_id: UUID) -> None:
        wrong = refusals(await CommandJournal(engine, broker).modifiable(order_id), changes)
        if wrong:
            raise CommandRefused("\n".join(wrong))

    return check


def undecided(shown: Callable[[Broker, Dossier], None] = lambda *_: None) -> Check:
    """Refuses to resolve what is not UNRESOLVED; `shown` gets the evidence first."""

    async def check(engine: AsyncEngine, broker: Broker, order_id: UUID) -> None:
        found = await dossier(engine, order_id)
        shown(broker, found)
        if found.order["status"] != OrderStatus.UNRESOLVED:
            raise CommandRefused(f"The order is {found.order['status']}: only an UNRESOLVED one is yours to decide.")

    return check


# a person's own order -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order as a person writes it. It belongs to a strategy, whose limits, opt-ins and positions are its own."""

    broker: Broker
    strategy_id: str
    instrument: str
    side: Side
    quantity: int
    intent: Intent
    order_type: OrderType
    product: Product
    validity: Validity
    price: Decimal | None = None
    trigger_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What risk made of a manual order: its order, or every code it failed. Neither: no decision yet."""

    signal_id: UUID
    order_id: UUID | None = None
    denials: tuple[dict[str, Any], ...] = ()
    decided_at: datetime | None = None


async def place(links: Connections, act: Act, ticket: Ticket, *, within_s: float) -> Decided:
    """Publish the ticket as a signal, and wait a moment for risk's decision. The same request again is the same signal.

    Raises:
        UnknownStrategy, CommandRefused: naming the field. Transient: database or log are away; ask again with the same key.
    """
    settings = links.settings
    links.journal(ticket.broker)
    known = {row.strategy_id: row for row in await load_strategies(links.config)}
    if ticket.strategy_id not in known:
        raise UnknownStrategy(f"strategy: there is no {ticket.strategy_id!r}; there are {', '.join(known) or 'none'}")
    now = utc_now()
    book = await load_book(links.config, settings.kite_target, trading_day(now), keys=(ticket.instrument,))
    instrument = book.by_key(ticket.instrument)
    if instrument is None:
        raise CommandRefused(f"instrument: {ticket.instrument} is not in today's list; write it like NSE:INFY")
    signal = Signal(
        signal_id=act.derived("signal"),
        strategy_id=ticket.strategy_id,
        instance=instance_name(ticket.strategy_id, ticket.broker),
        strategy_version=known[ticket.strategy_id].version,
        instrument=ticket.instrument,
        instrument_token=instrument.instrument_token,
        exchange=instrument.exchange,
        tradingsymbol=instrument.tradingsymbol,
        side=ticket.side,
        intent=ticket.intent,
        quantity=ticket.quantity,
        order_type=ticket.order_type,
        product=ticket.product,
        validity=ticket.validity,
        price=ticket.price,
        trigger_price=ticket.trigger_price,
        slot=f"{MANUAL_SOURCE}:{act.request_id}",
        origin_at=now,
        age_limit_s=PERSONS_AGE_S,
        source=MANUAL_SOURCE,
        reason=f"{act.by}: {act.reason}" if act.reason else act.by,
    )
    told = signal.model_dump(mode="json", include=set(Ticket.__dataclass_fields__))
    await act.note(links.config, "order.place", signal.instance, outcome=Outcome.ASKED, after=told)
    event = make(
        EventType.SIGNAL_RAW,
        signal,
        id=signal.signal_id,
        key=f"{signal.instance}:{signal.instrument}",
        source=MANUAL_SOURCE,
        correlation_id=act.request_id,
        causation_id=act.request_id,
        broker=ticket.broker,
    )
    await links.producer.send(topics.signals_raw(ticket.broker), event)
    return await decision(links, ticket.broker, signal.signal_id, within_s=within_s)


async def decision(links: Connections, broker: Broker, signal_id: UUID, *, within_s: float) -> Decided:
    """Risk's decision as the log tells it, once it does or as it stands after `within_s`. Raises Transient."""
    until = time.monotonic() + within_s
    while True:
        found = await views.decision_of(links.views(broker), signal_id)
        if found is not None:
            order_id = found.data.get("order_id")
            denials = tuple(found.data.get("denials", ()))
            return Decided(signal_id, UUID(order_id) if order_id else None, denials, found.ts)
        if time.monotonic() >= until:
            return Decided(signal_id)
        await asyncio.sleep(ASK_EVERY_S)
