"""All markets of the day: built from the instrument list, restored from the store, moved, saved. Knows no orders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime

from sandbox.config import SandboxConfig
from sandbox.history import aggregate, lay_over, synthetic_minutes
from sandbox.instruments import Instrument, build, csv_dump
from sandbox.packets import Level
from sandbox.prices import Bar, Market, epoch
from sandbox.store import Store


class Board:
    """Finds markets by token or by `NSE:INFY`, and keeps their prices on disk."""

    def __init__(self, config: SandboxConfig, store: Store, day: date, at: datetime) -> None:
        self._config = config
        self._store = store
        anchor = store.get("anchor_day")
        self.anchor = date.fromisoformat(anchor) if anchor else day
        if anchor is None:
            store.put("anchor_day", day.isoformat())
        self._markets: dict[int, Market] = {}
        self._by_key: dict[str, Market] = {}
        self._dirty: set[int] = set()
        self.open_day(day, at)

    def open_day(self, day: date, at: datetime) -> None:
        """Build the day's list: known contracts keep their market, new ones start, expired ones leave."""
        old, saved = self._markets, {} if self._markets else self._store.prices()
        self._markets, self._by_key = {}, {}
        fresh: list[int] = []
        for instrument in build(day, self._config.extra_instruments):
            market = old.get(instrument.token)
            if market is not None:
                market.rename(instrument)
            else:
                market = self._new_market(instrument, at, known=instrument.token in saved)
                if instrument.token in saved:
                    market.restore(saved[instrument.token])
                else:
                    fresh.append(instrument.token)
            self._markets[instrument.token] = market
            self._by_key[instrument.key] = market
        self._dirty.update(fresh)
        self.flush()

    def new_day(self, at: datetime) -> None:
        """Every price becomes yesterday's close. Call before `open_day`."""
        for market in self._markets.values():
            market.new_day(epoch(at))
        self._dirty.update(self._markets)

    def get(self, token: int) -> Market | None:
        return self._markets.get(token)

    def market(self, token: int) -> Market:
        return self._markets[token]

    def find(self, key: str) -> Market | None:
        """By `EXCHANGE:TRADINGSYMBOL` (or a token in digits, as the quote routes also take)."""
        if key.isascii() and key.isdigit():
            return self._markets.get(int(key))
        return self._by_key.get(key)

    def find_instrument(self, key: str) -> Instrument | None:
        market = self._by_key.get(key)
        return None if market is None else market.instrument

    def last_price(self, token: int) -> int:
        return self._markets[token].last

    def csv(self, exchange: str | None = None) -> str:
        rows = [market.instrument for market in self._markets.values()]
        return csv_dump(row for row in rows if exchange is None or row.exchange == exchange)

    def exchanges(self) -> set[str]:
        return {market.instrument.exchange for market in self._markets.values()}

    def __len__(self) -> int:
        return len(self._markets)

    def step(self, market: Market, at: datetime) -> None:
        market.step(epoch(at))
        self._dirty.add(market.token)

    def refresh(self, market: Market, at: datetime) -> None:
        """Somebody looks at a market nobody subscribes: let it move, at most once a tick interval."""
        if not self._config.still and epoch(at) - market.exchange_at >= self._config.tick_interval:
            self.step(market, at)

    def set_price(
        self, market: Market, last: int, at: datetime, bids: Iterable[Level] | None, asks: Iterable[Level] | None
    ) -> None:
        """Put a market somewhere, on disk before this returns."""
        market.set_price(last, epoch(at), None if bids is None else tuple(bids), None if asks is None else tuple(asks))
        self._dirty.add(market.token)
        self.flush()

    def save(self, market: Market) -> None:
        """Write one market now, in the caller's transaction: a fill and the liquidity it took are one fact."""
        self._store.save_prices([(market.token, json.dumps(market.state()))])

    def flush(self) -> None:
        """Write what moved since the last flush: prices, and the minutes that are over."""
        if not self._dirty:
            return
        markets = [market for token in self._dirty if (market := self._markets.get(token)) is not None]
        with self._store.transaction():
            self._store.save_prices((market.token, json.dumps(market.state())) for market in markets)
            for market in markets:
                if market.done_bars:
                    self._store.save_bars(market.token, market.done_bars)
        for market in markets:
            market.done_bars.clear()
        self._dirty.clear()

    async def bars(self, market: Market, start: datetime, end: datetime, minutes: int, at: datetime) -> list[Bar]:
        """Candles from `start` to `end` inclusive (never past `at`): what was seen, and a seeded past before it.

        Args:
            minutes: length of a candle; 0 for a day.
        """
        end = min(end, at)
        low, high = int(epoch(start)), int(epoch(end))
        seen = [*self._store.bars(market.token, low, high), *market.done_bars]
        if (forming := market.forming_bar()) is not None:
            seen.append(forming)
        before = self._store.last_bar_before(market.token, low)
        tick = market.instrument.tick_paise
        who = (self._config.seed, market.token, market.base, tick, self.anchor)

        def merge() -> list[Bar]:
            past = {bar[0]: bar for bar in synthetic_minutes(*who, start, end)}
            anchor = None if before is None else next(synthetic_minutes(*who, *[_moment(before[0])] * 2), None)
            minutes_seen = {bar[0]: bar for bar in seen if low <= bar[0] <= high}
            ordered = list(lay_over(past, minutes_seen, tick, (before, anchor)))
            return ordered if minutes == 1 else list(aggregate(ordered, minutes))

        return await asyncio.to_thread(merge)  # years of minutes must not hold up ticks and orders

    def _new_market(self, instrument: Instrument, at: datetime, *, known: bool) -> Market:
        start = None
        if not self._config.still and not known:
            past = synthetic_minutes(
                self._config.seed, instrument.token, instrument.base_paise, instrument.tick_paise, self.anchor, at, at
            )
            start = next((bar[4] for bar in past), None)
        return Market(instrument, self._config.seed, epoch(at), still=self._config.still, start=start)


def _moment(stamp: int) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)
