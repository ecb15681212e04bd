"""What a run of the chaos test may leave behind, made small: one intent and everything known of it. Each test breaks one thing of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from core import ids
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import FillRecord, OrderEvent, PnlSnapshot
from core.routing import order_workflow_id
from core.storage.redis import EVERYTHING, PnlView, PositionView, ReadModel
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Product, Side, Validity
from tests.chaos import money
from tests.chaos.books import BookOrder, BookTrade, Fault
from tests.chaos.facts import Facts, Journal
from tests.chaos.money import Deal, Held
from tests.chaos.plan import Planned
from tests.chaos.referee import judge
from tests.chaos.verdict import Verdict
from tests.order_events import make_order_state, make_signal

T0 = datetime(2026, 10, 7, 4, 0, tzinfo=UTC)
DAY = T0.date()
PRICE = Decimal("1500.10")
TOKEN = 408065


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def intent(broker: Broker = Broker.ZERODHA, number: int = 0) -> Planned:
    """An entry that buys 10 at the market."""
    signal_id = ids.derive_at(T0, "test", broker, number)
    return Planned(
        number=number,
        broker=broker,
        signal_id=signal_id,
        order_id=ids.derive(ids.derive(signal_id, "decision"), "order"),
        strategy_id="momentum",
        instrument="NSE:INFY",
        instrument_token=TOKEN,
        side=Side.BUY,
        intent=Intent.ENTRY,
        quantity=10,
        order_type=OrderType.MARKET,
        validity=Validity.DAY,
        price=None,
        age_limit_s=600,
        due_s=0,
        follows=None,
        twice=False,
    )


def exit_of(entry: Planned, number: int = 1, quantity: int = 10) -> Planned:
    """An exit that follows this entry."""
    signal_id = ids.derive_at(T0, "test", entry.broker, number)
    return replace(
        entry,
        number=number,
        signal_id=signal_id,
        order_id=ids.derive(ids.derive(signal_id, "decision"), "order"),
        side=entry.side.opposite,
        intent=Intent.EXIT,
        quantity=quantity,
        follows=entry.number,
    )


def event(
    one: Planned, seq: int, kind: EventType, status: OrderStatus, **state: Any
) -> tuple[str, Envelope, OrderEvent]:
    """One step of an order as it lies on its topic."""
    signal = make_signal(one.broker).model_copy(update={"signal_id": one.signal_id})
    order = make_order_state(signal, status, order_id=one.order_id, **state)
    fill = None
    if kind is EventType.ORDER_FILLED:
        fill = FillRecord(
            account="A", trading_day=DAY, exchange=Exchange.NSE, broker_order_id="B1", trade_id="T1", quantity=10,
            price=PRICE, filled_at=T0, realized_pnl=Decimal(0), charges=state["charges"], position_quantity=10,
            position_average_price=PRICE,
        )  # fmt: skip
    data = OrderEvent(order_seq=seq, order=order, fill=fill)
    made = make(
        kind, data, id=ids.derive(one.order_id, kind, seq), key=str(one.order_id), source="test",
        correlation_id=one.signal_id, broker=one.broker, ts=T0 + timedelta(seconds=seq),
    )  # fmt: skip
    return f"{one.broker.value}.orders.{kind.value.removeprefix('order.')}", made, data


def outgoing(rows: list[tuple[str, Envelope, OrderEvent]]) -> list[dict[str, Any]]:
    return [
        {"order_seq": data.order_seq, "topic": topic, "published_at": T0, "created_at": made.ts}
        for topic, made, data in rows
    ]


def send_of(one: Planned, number: int = 1, **values: Any) -> dict[str, Any]:
    row = {
        "send_no": number, "tag": ids.order_tag(one.order_id, number), "state": "SENT", "claimed_at": T0,
        "answered_at": T0, "answer": "accepted", "account": "A", "trading_day": DAY, "quantity": one.quantity,
        "deadline_at": after(1.5), "broker_order_id": "B1",
    }  # fmt: skip
    return row | values


def row_of(one: Planned, name: str = "B1", number: int = 1, **values: Any) -> BookOrder:
    """The order as the broker holds it: accepted at once, filled whole."""
    trade = BookTrade("T1", one.quantity, PRICE, T0)
    row = BookOrder(
        broker_order_id=name,
        tag=ids.order_tag(one.order_id, number),
        status="COMPLETE",
        side=one.side.value,
        quantity=one.quantity,
        filled_quantity=one.quantity,
        instrument_token=one.instrument_token,
        product="MIS",
        trades=[trade],
        placed=one.quantity,
        order_type=one.order_type.value,
        validity=one.validity.value,
        limit=one.price,
        accepted_at=T0,
        ended_at=T0,
    )
    return replace(row, **values)


def filled(one: Planned) -> Facts:
    """One intent that became one order, filled whole, everything in step."""
    charges = money.charges_of([Deal(T0, "T1", "B1", 1, 10, PRICE)])
    final = {"filled_quantity": 10, "average_price": PRICE, "realized_pnl": Decimal(0), "charges": charges}
    rows = [
        event(one, 1, EventType.ORDER_SUBMITTED, OrderStatus.SUBMITTED),
        event(one, 2, EventType.ORDER_ACK, OrderStatus.ACKED),
        event(one, 3, EventType.ORDER_FILLED, OrderStatus.FILLED, **final),
    ]
    order = {
        "order_id": one.order_id, "signal_id": one.signal_id, "status": "FILLED", "reason": None, "order_seq": 3, "cancel_requested": False,
        "send_no": 1, "updated_at": T0, "created_at": T0, "ended_at": T0, **final,
    }  # fmt: skip
    fill = {
        "broker_order_id": "B1",
        "trade_id": "T1",
        "quantity": 10,
        "price": PRICE,
        "realized_pnl": Decimal(0),
        "recorded_at": T0,
    }
    instance = f"momentum@{one.broker.value}"
    position = {"quantity": 10, "average_price": PRICE, "realized_pnl": Decimal(0), "charges": charges}
    journal = Journal(
        orders={one.order_id: order},
        decisions={one.signal_id: {"accepted": True, "denials": "[]", "instance": instance, "decided_at": T0}},
        sends={one.order_id: [send_of(one)]},
        fills={one.order_id: [fill]},
        events={one.order_id: outgoing(rows)},
        books_seen={one.order_id: []},
        positions=[{"instance": instance, "instrument_token": TOKEN, "product": "MIS", **position}],
        views={one.order_id: {"status": "FILLED", "order_seq": 3}},
    )
    workflows = {order_workflow_id(one.broker, one.order_id): "COMPLETED"}
    facts = Facts(one.broker, [row_of(one)], journal, {one.order_id: rows}, workflows, round=judged_round(one.broker))
    show(facts, one, Held(10, Fraction(PRICE), Fraction(0), charges))
    return facts


def judged_round(broker: Broker) -> dict[str, Any]:
    return {"broker": broker.value, "judged": True, "why_not": None, "lines": []}


def show(facts: Facts, one: Planned, held: Held) -> None:
    """What people read of one position."""
    instance = f"momentum@{one.broker.value}"
    position = {
        "instance": instance, "strategy_id": "momentum", "instrument": one.instrument, "instrument_token": TOKEN,
        "exchange": "NSE", "tradingsymbol": "INFY", "product": "MIS", "quantity": held.quantity,
        "average_price": PRICE, "realized_pnl": Decimal(0), "charges": held.charges, "trading_day": DAY,
        "simulated": True,
    }  # fmt: skip
    unmarked = dict.fromkeys(("last_price", "marked_at", "unrealized_pnl", "gross_pnl", "net_pnl", "day_net_pnl"))
    day = {"day_realized_pnl": Decimal(0), "day_charges": held.charges}
    view = PositionView(**position | unmarked | day, account="A", fills=1, updated_at=T0)
    money_of = dict.fromkeys(
        ("unrealized_pnl", "gross_pnl", "net_pnl", "day_realized_pnl", "day_gross_pnl", "day_net_pnl"), Decimal(0)
    )
    totals = {
        name: PnlView(
            instance=name, strategy_id=None, realized_pnl=Decimal(0), charges=held.charges, trading_day=DAY,
            day_charges=held.charges, open_positions=1, unmarked=1, as_of=T0, simulated=True, **money_of,
        )
        for name in (instance, EVERYTHING)
    }  # fmt: skip
    facts.model = ReadModel("run", {view.key: view}, totals, {})
    snapshot = PnlSnapshot(**position, last_price=None, unrealized_pnl=None, as_of=T0)
    facts.snapshots = {(instance, one.instrument, Product.MIS.value): snapshot}


def looks(one: Planned, *seconds: float, **values: Any) -> list[dict[str, Any]]:
    """Books without the tag, asked for so long after T0, each whole and healthy."""
    row = {"send_no": 1, "healthy": True, "rows": 5, "account": "A", "trading_day": DAY, "order_id": one.order_id}
    return [row | {"requested_at": after(moment)} | values for moment in seconds]


PROVEN = (2.0, 4.0, 8.0)
"""Seconds after T0 that prove the absence of `send_of`: its deadline is at 1.5, six more must pass, books 1.5 apart."""


def unsent(
    one: Planned, status: str, reason: str | None, seen: list[dict[str, Any]], *, doubt: bool, state: str = "ABSENT"
) -> Facts:
    """An intent without an order at the broker."""
    facts = filled(one)
    facts.book.clear()
    facts.journal.positions.clear()
    facts.snapshots.clear()
    facts.model = ReadModel("run", {}, {EVERYTHING: nothing_made()}, {})
    facts.journal.fills[one.order_id] = []
    nothing = {"filled_quantity": 0, "average_price": None, "realized_pnl": Decimal(0), "charges": Decimal(0)}
    seq = 2 if doubt else 1
    facts.journal.orders[one.order_id] |= {"status": status, "reason": reason, **nothing, "order_seq": seq}
    facts.journal.views[one.order_id] = {"status": status, "order_seq": seq}
    claimed: dict[str, Any] = {} if doubt or state == "REFUSED" else {"claimed_at": None, "deadline_at": None}
    facts.journal.sends[one.order_id] = [
        send_of(one, state=state, answer=reason, broker_order_id=None, **claimed),
    ]
    rows = [event(one, 1, EventType.ORDER_UNKNOWN, OrderStatus.UNKNOWN)] if doubt else []
    rows.append(event(one, len(rows) + 1, EventType(f"order.{status.lower()}"), OrderStatus(status), **nothing))
    facts.log[one.order_id] = rows
    facts.journal.events[one.order_id] = outgoing(rows)
    facts.journal.books_seen[one.order_id] = seen
    return facts


def nothing_made() -> PnlView:
    names = (
        "realized_pnl", "unrealized_pnl", "gross_pnl", "charges", "net_pnl", "day_realized_pnl", "day_gross_pnl",
        "day_charges", "day_net_pnl",
    )  # fmt: skip
    return PnlView(
        instance=EVERYTHING, strategy_id=None, trading_day=DAY, open_positions=0, unmarked=0, as_of=T0, simulated=True,
        **dict.fromkeys(names, Decimal(0)),
    )  # fmt: skip


def fault(kind: str, one: Planned | None = None, **values: Any) -> Fault:
    """One line of the sandbox's log."""
    tag = ids.order_tag(one.order_id, 1) if one else None
    row = {"order_id": None, "symbol": None, "detail": "not carried out", "rule": "r", "at": T0} | values
    return Fault(kind=kind, tag=tag, **row)


def verdict_on(facts: Facts, *intents: Planned) -> Verdict:
    return judge(intents, {one.signal_id: T0 for one in intents}, {facts.broker: facts})


def breaches_of(facts: Facts, *intents: Planned) -> list[str]:
    return [breach.what for breach in verdict_on(facts, *intents).breaches]
