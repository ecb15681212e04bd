"""One reader per account: everybody who asks about orders at about the same time shares one read of the broker.

Never answers with what was requested from the broker before the asker's own moment: a snapshot serves only those whose
`not_before` is not later than its sending.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from core.brokers.port import Book, BookRow, Trade, Trader

T = TypeVar("T")


@dataclass(slots=True)
class _Ask(Generic[T]):
    not_before: float
    keys: frozenset[str]
    answer: asyncio.Future[T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Shared(Generic[T]):
    """Reads of one kind. At most one is on its way; those who ask meanwhile share the next."""

    def __init__(self, read: Callable[[Sequence[str]], Awaitable[T]], spacing_s: float, *, keeps: bool) -> None:
        self._read = read
        self._spacing_s = spacing_s
        self._keeps = keeps
        self._last: tuple[float, T] | None = None
        self._sent_at = float("-inf")
        self._asks: list[_Ask[T]] = []
        self._task: asyncio.Task[None] | None = None

    async def get(self, keys: Sequence[str], not_before: float) -> T:
        """A snapshot sent at or after `not_before`. `keys` matter only to reads by key."""
        if self._last is not None and self._last[0] >= not_before:
            return self._last[1]
        ask: _Ask[T] = _Ask(not_before, frozenset(keys))
        self._asks.append(ask)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="book reader")
        return await ask.answer

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for ask in self._asks:
            ask.answer.cancel()

    async def _run(self) -> None:
        while self._asks:
            soonest = min(ask.not_before for ask in self._asks)
            wait = max(self._sent_at + self._spacing_s, soonest) - time.monotonic()
            await asyncio.sleep(max(wait, 0))  # one turn of the loop at least: askers of the same moment join
            self._asks = [ask for ask in self._asks if not ask.answer.done()]
            sent_at = time.monotonic()
            served = [ask for ask in self._asks if ask.not_before <= sent_at]
            if not served:
                continue
            self._asks = [ask for ask in self._asks if ask.not_before > sent_at]
            self._sent_at = sent_at
            await self._serve(served, sent_at)

    async def _serve(self, served: list[_Ask[T]], sent_at: float) -> None:
        keys = sorted(frozenset().union(*(ask.keys for ask in served)))
        try:
            found = await self._read(keys)
        except asyncio.CancelledError:
            for ask in served:
                ask.answer.cancel()
            raise
        except Exception as error:
            for ask in served:
                if not ask.answer.done():
                    ask.answer.set_exception(error)
            return
        if self._keeps:
            self._last = (sent_at, found)
        for ask in served:
            if not ask.answer.done():
                ask.answer.set_result(found)


class BookReader:
    """Shares a trader's reads. `not_before` is a time.monotonic() value: when the asker's hint arrived.

    Every method raises what the trader's read raises (Transient, SessionExpired).
    """

    def __init__(self, trader: Trader) -> None:
        self._by_id = trader.profile.reads_by_id
        spacing = trader.profile.read_spacing_s
        self._books: _Shared[Book] = _Shared(lambda _: trader.book(), spacing, keeps=True)
        self._orders: _Shared[dict[str, BookRow]] = _Shared(trader.orders, spacing, keeps=False)
        self._trades: _Shared[dict[str, tuple[Trade, ...]]] = _Shared(trader.trades, spacing, keeps=False)

    async def book(self, *, not_before: float) -> Book:
        """The whole book, requested at or after `not_before`."""
        return await self._books.get((), not_before)

    async def orders(self, broker_order_ids: Sequence[str], *, not_before: float) -> dict[str, BookRow]:
        """These orders' rows; those the broker does not list are missing."""
        wanted = frozenset(broker_order_ids)
        if self._by_id:
            found = await self._orders.get(broker_order_ids, not_before)
            return {key: row for key, row in found.items() if key in wanted}
        book = await self.book(not_before=not_before)
        return {row.broker_order_id: row for row in book.rows if row.broker_order_id in wanted}

    async def trades(self, broker_order_ids: Sequence[str], *, not_before: float) -> dict[str, tuple[Trade, ...]]:
        """These orders' trades, oldest first; orders without trades are missing."""
        wanted = frozenset(broker_order_ids)
        found = await self._trades.get(broker_order_ids, not_before)
        return {key: trades for key, trades in found.items() if key in wanted}

    async def close(self) -> None:
        """End what is on its way; those who wait are cancelled."""
        for shared in (self._books, self._orders, self._trades):
            await shared.close()
