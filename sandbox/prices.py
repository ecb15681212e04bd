"""One instrument's market: last price, day's figures, five-level book and the seeded walk that moves them. No orders, no I/O.

All prices are int paise; times are seconds since the epoch. The walk draws from a generator seeded by (seed, token,
step), so a restart goes on where it stood and two sandboxes with one seed and equal steps show equal prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

from core.trading.matching import DepthLevel, Execution, MarketSnapshot
from core.trading.types import Side
from sandbox.instruments import Instrument
from sandbox.packets import Level

LEVELS = 5
_BAND_PERCENT = {"EQ": 10, "FUT": 10}
_STILL_QUANTITY = 1_000
"""Level n of a still book shows n thousand lots, so that known prices are not eaten up by a test's orders."""

Bar = tuple[int, int, int, int, int, int, int]
"""minute start (epoch s), open, high, low, close in paise, volume, open interest"""


class Market:
    """The market in one instrument. Shaped like `packets.TickSource`."""

    __slots__ = (
        "_bar", "_drift", "_rng", "_still", "asks", "base", "bids", "close", "done_bars", "exchange_at", "high", "instrument",
        "is_index", "last", "last_quantity", "last_trade_s", "low", "oi", "oi_high", "oi_low", "open", "seed", "steps",
        "token", "turnover", "volume",
    )  # fmt: skip

    def __init__(self, instrument: Instrument, seed: int, at: float, *, still: bool, start: int | None = None) -> None:
        self.instrument = instrument
        self.token = instrument.token
        self.is_index = instrument.is_index
        self.seed = seed
        self.steps = 0
        self.base = self.close = instrument.base_paise
        self.last = self.open = self.high = self.low = start or instrument.base_paise
        self.last_quantity = 0 if self.is_index else instrument.lot_size
        self.volume = 0
        self.turnover = 0
        self.oi = self.oi_high = self.oi_low = 0 if instrument.kind == "EQ" else instrument.lot_size * 10_000
        self.exchange_at = at
        self.last_trade_s = int(at)
        self.bids: Sequence[Level] = ()
        self.asks: Sequence[Level] = ()
        self.done_bars: list[Bar] = []
        self._still = still
        self._drift = 0.0
        self._bar: list[int] | None = None
        self._reseed()
        self._make_book()

    @property
    def exchange_s(self) -> int:
        """Kite's ticks carry whole seconds."""
        return int(self.exchange_at)

    @property
    def average(self) -> int:
        return self.turnover // self.volume if self.volume else self.last

    @property
    def lower_circuit(self) -> int:
        """Lowest price in paise the exchange takes today; a contract's band is wide."""
        tick = self.instrument.tick_paise
        percent = _BAND_PERCENT.get(self.instrument.kind, 95)
        return max(tick, -(-self.close * (100 - percent) // 100 // tick) * tick)

    @property
    def upper_circuit(self) -> int:
        tick = self.instrument.tick_paise
        percent = _BAND_PERCENT.get(self.instrument.kind, 900)
        return self.close * (100 + percent) // 100 // tick * tick

    def step(self, at: float) -> None:
        """Move one tick of the walk: price, volume and a fresh book. A still market is never stepped."""
        self.steps += 1
        self._move(self._rng)
        self._make_book()
        self._trade((1 + int(self._rng.random() * 40)) * self.instrument.lot_size, at)

    def set_price(self, last: int, at: float, bids: Sequence[Level] | None, asks: Sequence[Level] | None) -> None:
        """Put the market at `last` paise, with the given book or a regular one around it."""
        self.steps += 1
        self.last = last
        self._drift = 0.0
        self._make_book()
        if bids is not None:
            self.bids = tuple(bids)
        if asks is not None:
            self.asks = tuple(asks)
        self._trade(self.instrument.lot_size, at)

    def snapshot(self, at: datetime) -> MarketSnapshot:
        """What an order meets at `at`: the exchange itself knows its book to the microsecond."""
        return MarketSnapshot(_decimal(self.last), _depth(self.bids), _depth(self.asks), at)

    def take(self, side: Side, executions: Sequence[Execution]) -> None:
        """Take executed liquidity out of the book and count the volume. Our own trades do not move the last price."""
        taken = {int(execution.price * 100): 0 for execution in executions}
        for execution in executions:
            taken[int(execution.price * 100)] += execution.quantity
            self.volume += execution.quantity
            self.turnover += execution.quantity * int(execution.price * 100)
        left = tuple(
            (price, quantity - taken.get(price, 0), orders)
            for price, quantity, orders in (self.asks if side is Side.BUY else self.bids)
            if quantity > taken.get(price, 0)
        )
        if side is Side.BUY:
            self.asks = left
        else:
            self.bids = left

    def new_day(self, at: float) -> None:
        """Yesterday's last price becomes the close; the day's figures begin again."""
        self.close = self.open = self.high = self.low = self.last
        self.volume = self.turnover = 0
        self.oi_high = self.oi_low = self.oi
        self.exchange_at = at

    def forming_bar(self) -> Bar | None:
        return None if self._bar is None else _bar(self._bar)

    def state(self) -> dict[str, Any]:
        """What a restart needs to go on from here."""
        names: tuple[str, ...] = (
            "steps",
            "base",
            "close",
            "last",
            "open",
            "high",
            "low",
            "last_quantity",
            "volume",
            "turnover",
            "oi",
        )
        names += ("oi_high", "oi_low", "last_trade_s", "exchange_at")
        state = {name: getattr(self, name) for name in names}
        return {**state, "bids": self.bids, "asks": self.asks, "bar": self._bar, "drift": self._drift}

    def restore(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.bids = tuple((p, q, o) for p, q, o in state.pop("bids"))
        self.asks = tuple((p, q, o) for p, q, o in state.pop("asks"))
        self._bar = state.pop("bar")
        self._drift = state.pop("drift")
        for name, value in state.items():
            setattr(self, name, value)
        self._reseed()

    def rename(self, instrument: Instrument) -> None:
        """The new day's row for the same contract (its tick or lot may have changed)."""
        self.instrument = replace(instrument, token=self.token)

    def _reseed(self) -> None:
        self._rng = Random(f"{self.seed}:{self.token}:{self.steps}")

    def _move(self, rng: Random) -> None:
        """A step of 2 basis points with slow drifts that come and go, pulled gently towards yesterday's close."""
        last, tick = self.last, self.instrument.tick_paise
        self._drift = 0.97 * self._drift + rng.gauss(0.0, 0.00003)
        pull = 0.0004 * (self.close - last) / last
        change = last * (self._drift + rng.gauss(0.0, 0.0002) + pull)
        moved = round((last + change) / tick) * tick
        room = LEVELS * 2 * tick
        low, high = self.lower_circuit + room, self.upper_circuit - room
        self.last = min(max(moved, low), high) if low < high else max(moved, tick)

    def _make_book(self) -> None:
        """Five levels a side, one tick apart; the last trade was at the best bid or the best ask."""
        if self.is_index:
            return
        tick, lot, rng = self.instrument.tick_paise, self.instrument.lot_size, self._rng
        best_bid = self.last if self._still or rng.random() < 0.5 else self.last - tick
        best_bid = max(best_bid, tick)
        if self._still:
            sizes = [(_STILL_QUANTITY * (n + 1) * lot, n + 1) for n in range(LEVELS)] * 2
        else:
            most = max(2, min(900, 200_000_000 // (self.last * lot)))
            sizes = [(lot * (1 + int(rng.random() * most)), 1 + int(rng.random() * 12)) for _ in range(LEVELS * 2)]
        self.bids = tuple((best_bid - n * tick, *sizes[n]) for n in range(LEVELS) if best_bid - n * tick > 0)
        self.asks = tuple((best_bid + (n + 1) * tick, *sizes[LEVELS + n]) for n in range(LEVELS))

    def _trade(self, quantity: int, at: float) -> None:
        self.exchange_at = at
        self.last_trade_s = int(at)
        if self.is_index:
            quantity = 0
        else:
            self.last_quantity = quantity
            self.volume += quantity
            self.turnover += quantity * self.last
        last = self.last
        if last > self.high:
            self.high = last
        if last < self.low:
            self.low = last
        minute = int(at) // 60 * 60
        bar = self._bar
        if bar is None or bar[0] != minute:
            if bar is not None:
                self.done_bars.append(_bar(bar))
            self._bar = [minute, last, last, last, last, quantity, self.oi]
            return
        if last > bar[2]:
            bar[2] = last
        if last < bar[3]:
            bar[3] = last
        bar[4] = last
        bar[5] += quantity


def _bar(bar: list[int]) -> Bar:
    return (bar[0], bar[1], bar[2], bar[3], bar[4], bar[5], bar[6])


def _decimal(paise: int) -> Decimal:
    return Decimal(paise).scaleb(-2)


def _depth(side: Sequence[Level]) -> tuple[DepthLevel, ...]:
    return tuple(DepthLevel(_decimal(price), quantity) for price, quantity, _ in side)


def epoch(at: datetime) -> float:
    return at.astimezone(UTC).timestamp()
