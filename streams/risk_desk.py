"""One broker's risk desk: a signal in, the event of its one decision out. Decides once, under the account's lock.

Serves one broker; what happens to its journal never touches another desk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from core import ids
from core.clock import trading_day, utc_now
from core.events import payloads, topics
from core.events.envelope import Envelope, EventType, make
from core.storage.risk import HeldPosition, JournalFacts, RiskJournal, StoredEvent, headers_of
from core.storage.risk_config import RiskConfig
from core.trading.calendar import TradingCalendar, phase
from core.trading.instruments import Instrument
from core.trading.risk import DayPnl, Decision, Facts, evaluate
from core.trading.signals import Signal
from core.trading.types import Broker, OrderStatus, SendState
from streams.risk_market import LastPrices

SOURCE = "risk-manager"
STRATEGY_SOURCE = "strategy"


class Instruments(Protocol):
    """Today's instruments by name."""

    async def get(self, key: str, day: date) -> Instrument | None:
        """None when the day's dump does not list it. Raises Transient while there is no dump of that day."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to publish. `is_new`: decided now, not on an earlier delivery of the signal."""

    event: StoredEvent
    is_new: bool


class RiskDesk:
    """`target` is where this broker's orders go; `config` gives the newest reading of what people decided."""

    def __init__(
        self,
        broker: Broker,
        target: str,
        journal: RiskJournal,
        *,
        config: Callable[[], RiskConfig],
        prices: LastPrices,
        instruments: Instruments,
        calendar: TradingCalendar,
    ) -> None:
        self.broker = broker
        self._target = target
        self._journal = journal
        self._config = config
        self._prices = prices
        self._instruments = instruments
        self._calendar = calendar
        self._turn = asyncio.Lock()

    async def decide(self, envelope: Envelope, signal: Signal) -> Outcome:
        """The decision on this signal: taken now, or the stored one.

        Signals of one account wait for each other here rather than in the database, where each would hold a connection.

        Raises:
            Transient: journal or instruments are away; nothing was decided.
        """
        async with self._turn:
            day = trading_day(utc_now())
            instrument = await self._instruments.get(signal.instrument, day)
            if instrument is not None and instrument.instrument_token != signal.instrument_token:
                instrument = None
            config = self._config()
            limits = config.limits(signal.strategy_id, self.broker)
            async with self._journal.turn() as turn:
                stored = await turn.stored(signal.signal_id)
                if stored is not None:
                    return Outcome(stored, is_new=False)
                found = await turn.facts(signal, day, limits.strategy.cooldown_s)
                now = utc_now()
                facts = await self._facts(signal, instrument, config, found, turn.killed(signal.strategy_id), now)
                decision = evaluate(signal, facts, limits)
                draft = _Draft(self.broker, self._journal.account, self._target, envelope, signal, decision, now)
                event = draft.event()
                if decision.accepted and instrument is not None:
                    order = draft.order(instrument, facts.last_price)
                    await turn.write(draft.row(event), order, draft.send())
                else:
                    await turn.write(draft.row(event))
        return Outcome(event, is_new=True)

    async def _facts(
        self,
        signal: Signal,
        instrument: Instrument | None,
        config: RiskConfig,
        found: JournalFacts,
        kill: str | None,
        now: datetime,
    ) -> Facts:
        last = self._prices.get(signal.instrument_token)
        session = phase(signal.exchange, now, self._calendar)
        mine = [held for held in found.positions if held.instance == signal.instance]
        gap = None if found.last_entry_at is None else abs((signal.origin_at - found.last_entry_at).total_seconds())
        return Facts(
            instrument=instrument,
            last_price=None if last is None else last.price,
            tick_age_s=None if last is None else last.age_s(now),
            phase=session.value,
            session_open=session.is_open,
            strategy_active=config.is_active(signal.strategy_id),
            target=self._target,
            opt_in=config.opt_in(signal.strategy_id, self.broker),
            kill=kill,
            unknown_orders=found.unknown_orders,
            position=_held(mine, signal),
            working=found.working,
            open_orders=found.open_orders,
            account_open_orders=found.account_open_orders,
            trades_today=found.trades_today,
            account_trades_today=found.account_trades_today,
            last_entry_gap_s=gap,
            day=await self._pnl(found.realized, found.charges, mine, now),
            account_day=await self._pnl(found.account_realized, found.account_charges, found.positions, now),
        )

    async def _pnl(self, realized: Decimal, charges: Decimal, held: Iterable[HeldPosition], now: datetime) -> DayPnl:
        """Marks each position to its instrument's last price, however old. A position in an instrument that today's dump
        no longer lists (an expired contract) has no price any more and counts as zero."""
        unrealized = Decimal(0)
        unmarked: list[str] = []
        for position in held:
            last = self._prices.get(position.instrument_token)
            if last is not None:
                unrealized += (last.price - position.average_price) * position.quantity
            elif await self._instruments.get(position.instrument, trading_day(now)) is not None:
                unmarked.append(position.instrument)
        return DayPnl(realized, unrealized, charges, tuple(sorted(set(unmarked))))


def _held(mine: Iterable[HeldPosition], signal: Signal) -> int:
    here = (signal.instrument_token, signal.product.value)
    return sum(held.quantity for held in mine if (held.instrument_token, held.product) == here)


class _Draft:
    """The rows and the event of one decision. Every id is derived from the signal's."""

    def __init__(
        self,
        broker: Broker,
        account: str,
        target: str,
        envelope: Envelope,
        signal: Signal,
        decision: Decision,
        now: datetime,
    ) -> None:
        self._broker = broker
        self._account = account
        self._target = target
        self._envelope = envelope
        self._signal = signal
        self._decision = decision
        self._now = now
        self.decision_id = ids.derive(signal.signal_id, "decision")
        self.order_id = ids.derive(self.decision_id, "order")

    def event(self) -> StoredEvent:
        data: payloads.SignalValidated | payloads.SignalRejected
        if self._decision.accepted:
            topic, kind = topics.signals_validated(self._broker), EventType.SIGNAL_VALIDATED
            data = payloads.SignalValidated(
                signal=self._signal,
                order_id=self.order_id,
                decision_id=self.decision_id,
                decided_at=self._now,
                account=self._account,
                target=self._target,
            )
        else:
            topic, kind = topics.signals_rejected(self._broker), EventType.SIGNAL_REJECTED
            data = payloads.SignalRejected(
                signal=self._signal,
                decision_id=self.decision_id,
                decided_at=self._now,
                denials=tuple(
                    payloads.Denial(code=denial.code, message=denial.message) for denial in self._decision.denials
                ),
            )
        envelope = make(
            kind,
            data,
            id=ids.derive(self.decision_id, kind),
            key=self._envelope.key,
            source=SOURCE,
            correlation_id=self._envelope.correlation_id,
            causation_id=self._envelope.id,
            broker=self._broker,
            ts=self._now,
        )
        headers = tuple((name, value) for name, value in headers_of(envelope.headers()))
        return StoredEvent(topic, envelope.key, envelope.encode(), headers)

    def row(self, event: StoredEvent) -> dict[str, Any]:
        return {
            "signal_id": self._signal.signal_id,
            "decision_id": self.decision_id,
            "instance": self._signal.instance,
            "instrument_token": self._signal.instrument_token,
            "side": self._signal.side.value,
            "slot": self._signal.slot,
            "accepted": self._decision.accepted,
            "denials": [{"code": denial.code, "message": denial.message} for denial in self._decision.denials],
            "event_topic": event.topic,
            "event_key": event.key,
            "event_value": event.value,
            "event_headers": [list(header) for header in event.headers],
            "decided_at": self._now,
        }

    def order(self, instrument: Instrument, last_price: Decimal | None) -> dict[str, Any]:
        """The PENDING order: until it ends, what it may still fill is reserved."""
        signal = self._signal
        copied = ("signal_id", "strategy_id", "instance", "source", "instrument_token", "quantity", "price")
        named = ("side", "intent", "order_type", "product", "validity")
        return (
            {name: getattr(signal, name) for name in copied}
            | {name: getattr(signal, name).value for name in named}
            | {
                "order_id": self.order_id,
                "correlation_id": self._envelope.correlation_id,
                "requested_by": _requested_by(signal),
                "account": self._account,
                "target": self._target,
                "instrument": instrument.key,
                "instrument_type": instrument.instrument_type,
                "exchange": instrument.exchange.value,
                "tradingsymbol": instrument.tradingsymbol,
                "lot_size": instrument.lot_size,
                "tick_size": instrument.tick_size,
                "trigger_price": signal.trigger_price,
                "reference_price": last_price,
                "status": OrderStatus.PENDING.value,
                "origin_at": signal.origin_at,
                "age_limit_s": signal.age_limit_s,
                "created_at": self._now,
                "updated_at": self._now,
            }
        )

    def send(self) -> dict[str, Any]:
        return {
            "order_id": self.order_id,
            "send_no": 1,
            "tag": ids.order_tag(self.order_id, 1),
            "state": SendState.INTENT.value,
            "account": self._account,
            "quantity": self._signal.quantity,
        }


def _requested_by(signal: Signal) -> str:
    """Who asked: the strategy, or the person the signal's source names."""
    return f"strategy:{signal.strategy_id}" if signal.source == STRATEGY_SOURCE else signal.source
