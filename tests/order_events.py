"""Small builders of order events as the journal publishes them. Data only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from core import ids
from core.clock import trading_day
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import Denial, FillRecord, OrderEvent, OrderState, SignalRejected, SignalValidated
from core.trading.positions import PositionState, apply_fill
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Product, Side, Validity

T0 = datetime(2026, 10, 7, 4, 0, tzinfo=UTC)
TOKENS = {"NSE:INFY": 408065, "NSE:TCS": 2953217}
HUNDRED = Decimal(100)
EVENT_TYPES = {
    OrderStatus.UNKNOWN: EventType.ORDER_UNKNOWN,
    OrderStatus.SUBMITTED: EventType.ORDER_SUBMITTED,
    OrderStatus.ACKED: EventType.ORDER_ACK,
    OrderStatus.PARTIALLY_FILLED: EventType.ORDER_FILLED,
    OrderStatus.FILLED: EventType.ORDER_FILLED,
    OrderStatus.CANCELLED: EventType.ORDER_CANCELLED,
    OrderStatus.REJECTED: EventType.ORDER_REJECTED,
    OrderStatus.EXPIRED: EventType.ORDER_EXPIRED,
}


def at(seconds: float) -> datetime:
    """A moment on the test's day."""
    return T0 + timedelta(seconds=seconds)


def make_signal(
    broker: Broker = Broker.PAPER, *, name: str = "s1", strategy_id: str = "momentum", **changes: Any
) -> Signal:
    """A signal whose id comes from its name."""
    instrument = changes.pop("instrument", "NSE:INFY")
    values: dict[str, Any] = {
        "signal_id": ids.derive_at(T0, broker, "signal", name),
        "strategy_id": strategy_id,
        "instance": instance_name(strategy_id, broker),
        "strategy_version": 1,
        "instrument": instrument,
        "instrument_token": TOKENS[instrument],
        "exchange": Exchange.NSE,
        "tradingsymbol": instrument.removeprefix("NSE:"),
        "side": Side.BUY,
        "intent": Intent.ENTRY,
        "quantity": 10,
        "order_type": OrderType.MARKET,
        "product": Product.MIS,
        "validity": Validity.DAY,
        "slot": name,
        "origin_at": T0,
        "age_limit_s": 5,
        "reason": "test",
    }
    return Signal(**{**values, **changes})


def order_id_of(signal: Signal) -> UUID:
    return ids.derive(signal.signal_id, "order")


def make_order_state(signal: Signal, status: OrderStatus = OrderStatus.SUBMITTED, **changes: Any) -> OrderState:
    """The full state of the order this signal became."""
    values: dict[str, Any] = {
        "order_id": order_id_of(signal),
        "signal_id": signal.signal_id,
        "strategy_id": signal.strategy_id,
        "instance": signal.instance,
        "source": signal.source,
        "account": "ACC",
        "target": "paper",
        "instrument": signal.instrument,
        "instrument_token": signal.instrument_token,
        "exchange": signal.exchange,
        "tradingsymbol": signal.tradingsymbol,
        "side": signal.side,
        "intent": signal.intent,
        "order_type": signal.order_type,
        "product": signal.product,
        "validity": signal.validity,
        "quantity": signal.quantity,
        "price": signal.price,
        "trigger_price": signal.trigger_price,
        "status": status,
        "filled_quantity": 0,
        "average_price": None,
        "broker_order_id": f"B-{signal.slot}",
        "send_no": 1,
        "reason": None,
        "origin_at": signal.origin_at,
        "created_at": T0,
        "updated_at": T0,
        "realized_pnl": Decimal(0),
        "charges": Decimal(0),
    }
    return OrderState(**{**values, **changes})


def make_order_event(
    broker: Broker, state: OrderState, seq: int, *, fill: FillRecord | None = None, ts: datetime | None = None
) -> Envelope:
    """One step of an order as the log carries it."""
    kind = EventType.ORDER_FILLED if fill else EVENT_TYPES[state.status]
    return make(
        kind,
        OrderEvent(order_seq=seq, order=state, fill=fill),
        id=ids.derive(state.order_id, kind, seq),
        key=str(state.order_id),
        source="test",
        correlation_id=state.signal_id,
        causation_id=state.order_id,
        broker=broker,
        ts=ts or state.updated_at,
    )


def make_validated_event(broker: Broker, signal: Signal) -> Envelope:
    decision = ids.derive(signal.signal_id, "decision")
    data = SignalValidated(
        signal=signal,
        order_id=order_id_of(signal),
        decision_id=decision,
        decided_at=at(0.5),
        account="ACC",
        target="paper",
    )
    return _signal_event(EventType.SIGNAL_VALIDATED, broker, signal, data, ids.derive(decision, "event"), at(0.5))


def make_raw_event(broker: Broker, signal: Signal) -> Envelope:
    return _signal_event(EventType.SIGNAL_RAW, broker, signal, signal, signal.signal_id, at(0))


def make_rejected_event(broker: Broker, signal: Signal, *codes: str) -> Envelope:
    decision = ids.derive(signal.signal_id, "decision")
    denials = tuple(Denial(code=code, message=f"{code} in words") for code in codes or ("STALE_TICK",))
    data = SignalRejected(signal=signal, decision_id=decision, decided_at=at(0.5), denials=denials)
    return _signal_event(EventType.SIGNAL_REJECTED, broker, signal, data, ids.derive(decision, "event"), at(0.5))


def _signal_event(kind: EventType, broker: Broker, signal: Signal, data: Any, identity: UUID, ts: datetime) -> Envelope:
    return make(
        kind,
        data,
        id=identity,
        key=signal.instance,
        source="test",
        correlation_id=signal.signal_id,
        broker=broker,
        ts=ts,
    )


class FakeJournal:
    """Books fills in the order it is told of them, as the journal does, and gives the filled events."""

    def __init__(self, broker: Broker = Broker.PAPER) -> None:
        self.broker = broker
        self._positions: dict[tuple[str, str, str], PositionState] = {}
        self._count = 0

    def fill(
        self,
        side: Side = Side.BUY,
        quantity: int = 10,
        price: Decimal = HUNDRED,
        *,
        at_s: float | None = None,
        charges: Decimal = Decimal(1),
        **changes: Any,
    ) -> Envelope:
        """The filled event of a one-fill order."""
        self._count += 1
        name = changes.pop("name", f"f{self._count}")
        trade_id = changes.pop("trade_id", f"T{self._count:05}")
        signal = make_signal(self.broker, name=name, side=side, quantity=quantity, **changes)
        moment = at(self._count if at_s is None else at_s)
        key = (signal.instance, signal.instrument, str(signal.product))
        after, gross = apply_fill(self._positions.get(key, PositionState()), side, quantity, price, charges)
        self._positions[key] = after
        record = FillRecord(
            account="ACC",
            trading_day=trading_day(moment),
            exchange=signal.exchange,
            broker_order_id=f"B-{name}",
            trade_id=trade_id,
            quantity=quantity,
            price=price,
            filled_at=moment,
            realized_pnl=gross,
            charges=charges,
            position_quantity=after.quantity,
            position_average_price=after.average_price,
        )
        state = make_order_state(
            signal,
            OrderStatus.FILLED,
            filled_quantity=quantity,
            average_price=price,
            realized_pnl=gross,
            charges=charges,
            updated_at=moment,
        )
        return make_order_event(self.broker, state, 3, fill=record)
