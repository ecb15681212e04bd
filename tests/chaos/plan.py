"""What a run will do, made from its seed before it begins: the intents with their derived ids, the faults, the kills. Pure.

Never looks at the running system: the referee holds what happened against this list.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from random import Random
from typing import Any
from uuid import UUID

from core import ids
from core.clock import trading_day, utc_now
from core.trading.types import Broker, Intent, OrderType, Side, Validity
from sandbox.instruments import Instrument, build

EXTRA_INSTRUMENTS = 200
STRATEGIES = 8

LONG_AGE_S = 600.0
SHORT_AGE_S = 5.0
SHORT_EVERY = 5
"""One entry in so many, one intent in ten, is as short-lived as a strategy's default: an outage may expire it, and the plan says so."""

TWICE_EVERY = 25
"""One intent in so many is published twice, as after a producer's crash."""

REST_S = 8.0
"""From an entry to its exit at least, and from an exit to the instrument's next entry."""

SPARE = 1.4
"""Intents listed for one claimed send wanted: those that end unsent must not end the run early."""

MOST_HELD = 80


@dataclass(frozen=True, slots=True)
class Planned:
    """One intent. `due_s` from the beginning of the run; `follows` is the number of the entry an exit belongs to."""

    number: int
    broker: Broker
    signal_id: UUID
    order_id: UUID
    strategy_id: str
    instrument: str
    instrument_token: int
    side: Side
    intent: Intent
    quantity: int
    order_type: OrderType
    validity: Validity
    price: Decimal | None
    age_limit_s: float
    due_s: float
    follows: int | None
    twice: bool

    @property
    def may_expire(self) -> bool:
        """Written down beforehand: so short-lived that an outage may end it unsent."""
        return self.intent is Intent.ENTRY and self.age_limit_s == SHORT_AGE_S


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. `orders` counts claimed sends over both brokers; `rate` is intents a second over both."""

    seed: int
    orders: int
    rate: float
    began: datetime
    intents: tuple[Planned, ...]

    def of(self, broker: Broker) -> list[Planned]:
        return [one for one in self.intents if one.broker is broker]

    def dump(self) -> str:
        """The list as it is written to disk before the first signal."""
        body: dict[str, Any] = asdict(self)
        return json.dumps(body, default=str, indent=0)


def strategy_name(number: int) -> str:
    return f"chaos-{number + 1}"


def universe() -> list[Instrument]:
    """Every share of NSE in the sandbox's dump, the extra ones included: more than 200."""
    day = trading_day(utc_now())
    return [row for row in build(day, EXTRA_INSTRUMENTS) if row.exchange == "NSE" and row.segment == "NSE"]


def make(orders: int, seed: int, rate: float, began: datetime) -> Plan:
    """The plan of a run that begins at `began` (UTC): same seed, same intents; their ids carry the beginning."""
    rows: list[Planned] = []
    for broker in Broker:
        count = round(orders / len(Broker) * SPARE) + 10
        rows += _Trader(broker, seed, rate / len(Broker), began, universe()).intents(count)
    return Plan(seed, orders, rate, began, tuple(sorted(rows, key=lambda one: (one.due_s, one.broker, one.number))))


def lasts_s(orders: int, rate: float) -> float:
    """Seconds in which every listed intent is due, should none of them end unsent."""
    return (orders * SPARE + 10 * len(Broker)) / rate


class _Trader:
    """Enters an instrument, leaves it a while later, goes on to the next: positions stay bounded."""

    def __init__(self, broker: Broker, seed: int, rate: float, began: datetime, listed: list[Instrument]) -> None:
        self._broker, self._seed, self._rate, self._began = broker, seed, rate, began
        self._random = Random(f"{seed}:{broker.value}")
        owners = {row.key: strategy_name(number % STRATEGIES) for number, row in enumerate(listed)}
        self._owner = owners
        turns = list(listed)
        self._random.shuffle(turns)
        self._free: deque[tuple[float, Instrument]] = deque((0.0, row) for row in turns)
        self._held: deque[tuple[float, Instrument, Planned]] = deque()
        self._entries = 0

    def intents(self, count: int) -> Iterator[Planned]:
        for number in range(count):
            at = number / self._rate
            leave = bool(self._held) and self._held[0][0] <= at
            enter = self._free[0][0] <= at and len(self._held) < MOST_HELD
            if leave and (not enter or self._random.random() < 0.6):
                _, row, entry = self._held.popleft()
                yield self._exit(number, at, row, entry)
                self._free.append((at + REST_S, row))
            else:
                _, row = self._free.popleft()
                entry = self._entry(number, at, row)
                yield entry
                self._held.append((at + REST_S, row, entry))

    def _entry(self, number: int, at: float, row: Instrument) -> Planned:
        side = Side.BUY if self._random.random() < 0.6 else Side.SELL
        self._entries += 1
        short = self._entries % SHORT_EVERY == 0
        return self._planned(
            number, at, row, side, Intent.ENTRY, self._random.randint(1, 40), SHORT_AGE_S if short else LONG_AGE_S, None
        )

    def _exit(self, number: int, at: float, row: Instrument, entry: Planned) -> Planned:
        """Asks for what was entered, or for three times as much: it is cut to what is held."""
        wanted = entry.quantity * (3 if self._random.random() < 0.3 else 1)
        side = entry.side.opposite
        return self._planned(number, at, row, side, Intent.EXIT, wanted, LONG_AGE_S, entry.number)

    def _planned(
        self, number: int, at: float, row: Instrument, side: Side, intent: Intent, quantity: int, age: float,
        follows: int | None,
    ) -> Planned:  # fmt: skip
        draw = self._random.random()
        order_type = OrderType.MARKET if draw < 0.75 else OrderType.LIMIT
        validity = Validity.IOC if draw >= 0.92 and intent is Intent.ENTRY else Validity.DAY
        signal_id = ids.derive_at(self._began, "chaos", self._seed, self._broker, number)
        return Planned(
            number=number,
            broker=self._broker,
            signal_id=signal_id,
            order_id=ids.derive(ids.derive(signal_id, "decision"), "order"),
            strategy_id=self._owner[row.key],
            instrument=row.key,
            instrument_token=row.token,
            side=side,
            intent=intent,
            quantity=quantity,
            order_type=order_type,
            validity=validity,
            price=_crossing(row, side) if order_type is OrderType.LIMIT else None,
            age_limit_s=age,
            due_s=at,
            follows=follows,
            twice=number % TWICE_EVERY == TWICE_EVERY - 1,
        )


def _crossing(row: Instrument, side: Side) -> Decimal:
    """A limit 4 % beyond where the walk starts, inside the circuit limits: it fills at the book's better price."""
    wanted = Decimal(row.base_paise) / 100 * (1 + side.sign * Decimal("0.04"))
    return (wanted / row.tick_size).to_integral_value(rounding=ROUND_FLOOR) * row.tick_size
