"""One round's trading by hand: at each broker an entry, an exit and a cancel under way at once, and what must have come of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from core import ids
from core.clock import utc_now
from core.events import topics
from core.events.envelope import EventType, make
from core.messaging.producer import EventProducer
from core.order_commands import ask
from core.routing import order_workflow_id
from core.storage.db import broker_engine
from core.storage.strategies import StrategyConfig
from core.temporal import connect
from core.trading.commands import Changes, CommandKind
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Exchange, Intent, KiteTarget, OrderType, Product, Side, Validity
from tests.e2e.test_commands import modifications
from tests.fixtures.system import System

HAND = "by-hand"
QUANTITY = 3
AGE_LIMIT_S = 900.0
"""Kills must not make an entry too old: its age is another test's matter."""

TURNS = ("NSE:INFY", "NSE:RELIANCE")
"""What one round buys, the next sells."""

RESTS = "NSE:TCS"
PRICES = {"NSE:INFY": Decimal(1500), "NSE:RELIANCE": Decimal(1400), RESTS: Decimal(3100)}
TOKENS = {"NSE:INFY": 408065, "NSE:RELIANCE": 738561, RESTS: 2953217}
REST_AT, MOVED_TO = Decimal(3080), Decimal(3078)
SETTLED_S = 240
PREPARED_S = 120

STALE = "STALE_TICK"
"""The one denial that a loaded machine may cause: its ticks came late."""


def by_hand() -> StrategyConfig:
    """An instance that never decides by itself: its bars last an hour and the prices stand still."""
    opt_ins = {Broker.ZERODHA.value: KiteTarget.LOCAL.value}
    parameters = {"bar_s": 3600, "quantity": QUANTITY}
    return StrategyConfig(HAND, "Momentum", parameters, (*TURNS, RESTS), True, opt_ins=opt_ins)


def signal_of(
    broker: Broker,
    instrument: str,
    *,
    intent: Intent = Intent.ENTRY,
    price: Decimal | None = None,
    quantity: int = QUANTITY,
) -> Signal:
    """A raw signal as a person's program would publish it; without a price: at the market."""
    exchange, _, symbol = instrument.partition(":")
    return Signal(
        signal_id=ids.new_id(), strategy_id=HAND, instance=instance_name(HAND, broker), strategy_version=1,
        instrument=instrument, instrument_token=TOKENS[instrument], exchange=Exchange(exchange), tradingsymbol=symbol,
        side=Side.SELL if intent is Intent.EXIT else Side.BUY, intent=intent, quantity=quantity,
        order_type=OrderType.MARKET if price is None else OrderType.LIMIT, product=Product.MIS,
        validity=Validity.DAY, price=price, slot=str(ids.new_id()), origin_at=utc_now(), age_limit_s=AGE_LIMIT_S,
        source="test",
    )  # fmt: skip


def publish(system: System, signals: dict[Broker, list[Signal]]) -> None:
    async def send() -> None:
        producer = EventProducer(system.settings, client_id="test")
        await producer.start()
        try:
            for broker, some in signals.items():
                for one in some:
                    event = make(
                        EventType.SIGNAL_RAW, one, id=one.signal_id, key=f"{one.instance}:{one.instrument}",
                        source="test", correlation_id=one.signal_id, broker=broker,
                    )  # fmt: skip
                    await producer.send(topics.signals_raw(broker), event)
        finally:
            await producer.stop()

    asyncio.run(send())


def order_of(system: System, broker: Broker, signal: Signal) -> dict[str, Any]:
    """The one order of a signal; empty while there is none."""
    rows = system.sql(f"SELECT * FROM {broker}.orders WHERE signal_id = :signal", signal=signal.signal_id)
    assert len(rows) <= 1, f"one signal, {len(rows)} orders at {broker}: {signal}"
    return rows[0] if rows else {}


def denied(system: System, broker: Broker, signal: Signal) -> str:
    """The codes under which the signal was denied; empty where it was not."""
    query = f"SELECT denials FROM {broker}.risk_decisions WHERE signal_id = :signal AND NOT accepted"
    rows = system.sql(query, signal=signal.signal_id)
    return ",".join(denial["code"] for row in rows for denial in row["denials"])


def held(system: System, broker: Broker, instrument: str) -> int:
    query = f"SELECT quantity FROM {broker}.positions WHERE instance = :instance AND instrument_token = :token"
    rows = system.sql(query, instance=instance_name(HAND, broker), token=TOKENS[instrument])
    return sum(int(row["quantity"]) for row in rows)


@dataclass(slots=True)
class Trades:
    """The orders of one round. `buys` is entered, `sells` is held and left, one more order rests until it is cancelled."""

    system: System
    number: int
    rests: dict[Broker, Signal] = field(default_factory=dict)
    entries: dict[Broker, Signal] = field(default_factory=dict)
    exits: dict[Broker, Signal] = field(default_factory=dict)
    asked: dict[tuple[Broker, CommandKind], UUID] = field(default_factory=dict)
    had: dict[Broker, int] = field(default_factory=dict)

    @property
    def buys(self) -> str:
        return TURNS[self.number % 2]

    @property
    def sells(self) -> str:
        return TURNS[(self.number + 1) % 2]

    def prepare(self) -> None:
        """Something to leave and something that rests, at both brokers, with nothing armed."""
        for broker in Broker:
            self.rests[broker] = self._accepted(broker, RESTS, REST_AT)
            if held(self.system, broker, self.sells) == 0:  # the round before may have ended with none
                self._accepted(broker, self.sells, None)
        for broker in Broker:
            self.system.wait(
                lambda broker=broker: (
                    self._rest(broker).get("status") == "ACKED" and held(self.system, broker, self.sells) > 0
                ),
                f"{RESTS} to rest at {broker}, and {self.sells} to be held",
                PREPARED_S,
                lambda broker=broker: self._rest(broker),
            )

    def _accepted(self, broker: Broker, instrument: str, price: Decimal | None) -> Signal:
        """An entry with an order. One denied for want of a fresh tick (the feed has just begun) is asked for anew."""
        asked = [signal_of(broker, instrument, price=price)]
        publish(self.system, {broker: asked})

        def has_order() -> bool:
            denial = denied(self.system, broker, asked[-1])
            if denial == STALE:
                asked.append(signal_of(broker, instrument, price=price))
                publish(self.system, {broker: asked[-1:]})
            return bool(order_of(self.system, broker, asked[-1]))

        self.system.wait(
            has_order,
            f"an order of {instrument} at {broker}",
            PREPARED_S,
            lambda: denied(self.system, broker, asked[-1]) or "no decision",
        )
        return asked[-1]

    def begin(self) -> None:
        """Entry and exit of both brokers, at once."""
        for broker in Broker:
            self.had[broker] = held(self.system, broker, self.buys)
            self.entries[broker] = signal_of(broker, self.buys)
            all_of_it = held(self.system, broker, self.sells)
            self.exits[broker] = signal_of(broker, self.sells, intent=Intent.EXIT, quantity=all_of_it)
        publish(self.system, {broker: [self.entries[broker], self.exits[broker]] for broker in Broker})

    def ask(self, kind: CommandKind) -> None:
        """Cancel (or modify) what rests, at both brokers, as the API and the command line do."""
        rests = {broker: self._rest(broker)["order_id"] for broker in Broker}

        async def run() -> None:
            client = await connect(self.system.settings)
            for broker in Broker:
                engine = broker_engine(self.system.settings, broker)
                try:
                    record = await ask(
                        client, engine, broker, request_id=ids.new_id(), order_id=rests[broker],
                        kind=kind, parameters=Changes(price=MOVED_TO).parameters() if kind is CommandKind.MODIFY else {},
                        requested_by="asha", reason="a test",
                    )  # fmt: skip
                finally:
                    await engine.dispose()
                self.asked[broker, kind] = record.request_id

        asyncio.run(run())

    def await_outcome(self, kind: CommandKind) -> dict[Broker, str]:
        found: dict[Broker, str] = {}
        for broker in Broker:
            query = f"SELECT outcome FROM {broker}.commands WHERE request_id = :id"
            found[broker] = self.system.wait(
                lambda broker=broker, query=query: self.system.sql(query, id=self.asked[broker, kind])[0]["outcome"],
                f"the outcome of the {kind} at {broker}",
                SETTLED_S,
            )
        return found

    def lose_workflows(self) -> None:
        """Terminate the workflows of what rests, as a person would in Temporal UI: reconciliation starts them again."""
        rests = {broker: self._rest(broker)["order_id"] for broker in Broker}

        async def run() -> None:
            client = await connect(self.system.settings)
            for broker in Broker:
                handle = client.get_workflow_handle(order_workflow_id(broker, rests[broker]))
                await handle.terminate("a test")

        asyncio.run(run())

    def await_ends(self) -> None:
        def open_ones() -> list[str]:
            every = [(broker, one) for some in self._all() for broker, one in some.items()]
            rows = [(broker, one, order_of(self.system, broker, one)) for broker, one in every]
            return [
                f"{broker} {one.intent} {one.instrument}: {row.get('status')} {row.get('reason')}"
                for broker, one, row in rows
                if (not row and not denied(self.system, broker, one)) or (row and row["ended_at"] is None)
            ]

        self.system.wait(lambda: not open_ones(), "every order to end", SETTLED_S, open_ones)

    def judge(self, *, may_be_absent: Sequence[Broker]) -> None:
        """Each intent had its effect exactly once, or a reason for none that is written down.

        An entry whose broker process acted between claim and record may be proven absent: it then ends EXPIRED. An exit is a goal and
        always ends flat.
        """
        for broker in Broker:
            entry, left, rest = (order_of(self.system, broker, some[broker]) for some in self._all())
            assert left["status"] == "FILLED", f"the exit did not reach its goal: {left}"
            assert held(self.system, broker, self.sells) == 0, f"{broker} still holds {self.sells}"
            assert rest["status"] == "CANCELLED", rest
            came_of = entry.get("status") or denied(self.system, broker, self.entries[broker])
            assert came_of in {"FILLED", STALE, *(["EXPIRED"] if broker in may_be_absent else [])}, entry or came_of
            wanted = self.had[broker] + (QUANTITY if came_of == "FILLED" else 0)
            assert held(self.system, broker, self.buys) == wanted, (
                f"{broker} holds {held(self.system, broker, self.buys)}"
            )
            assert modifications(self.system, broker, rest["broker_order_id"]) <= 1

    def _all(self) -> tuple[dict[Broker, Signal], ...]:
        return self.entries, self.exits, self.rests

    def _rest(self, broker: Broker) -> dict[str, Any]:
        return order_of(self.system, broker, self.rests[broker])
