"""One comparison of the journal with the broker: book, trades and positions, read in the leased process.

Books late rows of ours and wakes workflows that are behind. Never touches an order that is not ours, never judges a book that is no
evidence.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.command_calls import CommandCalls
from activities.heartbeats import beating
from core import failpoints, logging, order_work, reconcile_work
from core.brokers.port import Book, BookRow, BrokerPosition, Trade, Trader
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.config import home
from core.errors import Transient
from core.events.payloads import ForeignOrder, ReconciledLine
from core.flatten_file import read_sends
from core.order_work import BrokerHint, LateRowInput, LateRowView
from core.reconcile_work import Compared, RoundInput
from core.routing import order_workflow_id
from core.storage.flatten import PART, book_flattened, ended_in_book, ended_in_file, not_ours
from core.storage.journal import Journal
from core.storage.reconcile import Booked, Day, OurSend, booked, load_day, our_sends, store_judged
from core.trading.reconcile import Comparison, DayTrade, LineKey, compare, moving_lines
from core.trading.types import SendState

FOREIGN_LISTED = 100
"""Most foreign orders one report names; all are counted."""

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """The book and the trades of its orders, with which of them are ours."""

    book: Book
    trades: dict[str, tuple[Trade, ...]]
    sends: dict[str, OurSend]
    """By broker order id, of the book's rows that are ours."""
    shared: dict[str, int]
    """By broker order id, of orders that `flatten --direct` sent and that are booked: how many units closed what was not ours."""

    @property
    def foreign(self) -> list[BookRow]:
        return [row for row in self.book.rows if row.broker_order_id not in self.sends]

    def day_trades(self) -> list[DayTrade]:
        found = []
        for row in self.book.rows:
            send = self.sends.get(row.broker_order_id)
            shared = self.shared.get(row.broker_order_id, 0)
            before, ours = 0, row.filled_quantity - shared
            for trade in sorted(
                self.trades.get(row.broker_order_id, ()), key=lambda one: (one.filled_at, one.trade_id)
            ):
                key = LineKey(trade.exchange, trade.tradingsymbol, trade.product)
                owner = send.order_id if send else None
                # What is not ours of a shared order was closed last (core/storage/flatten.py).
                strange = min(max(before + trade.quantity - ours, 0), trade.quantity) if shared else 0
                before += trade.quantity
                for part, order_id in ((trade.quantity - strange, owner), (strange, None)):
                    if part:
                        name = trade.trade_id if order_id == owner else f"{trade.trade_id}{PART}"
                        found.append(
                            DayTrade(row.broker_order_id, name, key, trade.side, part, trade.filled_at, order_id)
                        )
        return found

    @property
    def ours(self) -> list[BookRow]:
        """But for what flatten sent: how much of that is ours was decided when it was booked, unit by unit."""
        return [
            row
            for row in self.book.rows
            if row.broker_order_id in self.sends and row.broker_order_id not in self.shared
        ]

    def listed(self, row: BookRow) -> int:
        return sum(trade.quantity for trade in self.trades.get(row.broker_order_id, ()))

    def unbooked(self, row: BookRow, there: Booked) -> bool:
        """A trade of it is not in the journal."""
        trades = self.trades.get(row.broker_order_id, ())
        return any((row.broker_order_id, trade.trade_id) not in there.trades for trade in trades)


@dataclass(slots=True)
class _Mended:
    """What the book led to: late rows of ours, and workflows woken because the book is ahead of them."""

    late: list[LateRowView]
    hinted: list[UUID]


@dataclass(slots=True)
class ReconcileBook:
    """The part of reconciliation that talks to the broker: an activity of the urgent queue."""

    journal: Journal
    trader: Trader
    reader: BookReader
    client: Client
    commands: CommandCalls

    @activity.defn(name=reconcile_work.COMPARE_WITH_BROKER)
    async def compare_with_broker(self, at: RoundInput) -> Compared:
        """Read, mend, compare and keep the figures.

        Raises:
            Transient, SessionExpired: the broker or the database is away; the round then goes without a comparison.
        """
        async with beating():
            began = utc_now()
            day = trading_day(began)
            owner = await self.trader.account()
            if owner != at.account:
                return Compared(judged=False, why_not=f"the broker says this is {owner}'s account, not {at.account}'s")
            # Read before the book is asked for: an order placed meanwhile says nothing against the book.
            known = await self.journal.broker_order_ids(at.account, at.target, day)
            first = await self._look(at)
            seen = await load_day(self.journal, at.account, day)
            stranger = _of_another(first.book, at.account, day)
            if stranger:
                return Compared(judged=False, why_not=stranger)
            mended = await self._mend(first, at)  # what a book shows is true, also one that lacks orders
            sick = _sick(first, at.account, day, known, seen)
            if sick:
                return _told(mended, None, first, why_not=sick)
            waiting = await self._book_flattened(first, at)  # after our own fills, which say how much of it was ours
            before = await booked(self.journal, at.account, day, list(first.sends))
            net = _net(await self.trader.positions())
            second = await self._look(at)
            sick = _sick(second, at.account, day, known, seen)
            if sick:
                return _told(mended, None, second, why_not=sick)
            after = await booked(self.journal, at.account, day, list(second.sends))
            comparison = compare(
                net=net,
                trades=second.day_trades(),
                held=after.held,
                openings=seen.openings,
                moving=_moving(first, second, before, after, young_s=at.durations.young) | waiting,
                delivers=self.trader.profile.delivers,
                rest=seen.rest,
            )
            if comparison.mended:
                log.warning(
                    "the day's opening was taken from answers without any position, and is taken anew",
                    lines=[str(key) for key in comparison.mended],
                )
            await failpoints.reached("reconcile.before_keep")
            if not await self._keep(at, began, day, comparison, second, mended, seen):
                return _told(mended, None, second, why_not="another round was kept while this one was under way")
            await failpoints.reached("reconcile.after_keep")
            return _told(mended, comparison, second)

    async def _look(self, at: RoundInput) -> _Look:
        book = await self.reader.book(not_before=time.monotonic())
        filled = [row.broker_order_id for row in book.rows if row.filled_quantity > 0]
        trades = await self.reader.trades(filled, not_before=time.monotonic()) if filled else {}
        tags = sorted({tag for row in book.rows for tag in row.tags})
        names = [row.broker_order_id for row in book.rows]
        sends = await our_sends(self.journal, at.account, at.target, tags, names)
        by_tag = {send.tag: send for send in sends}
        by_id = {send.broker_order_id: send for send in sends if send.broker_order_id is not None}
        ours: dict[str, OurSend] = {}
        for row in book.rows:
            send = by_id.get(row.broker_order_id) or next((by_tag[tag] for tag in row.tags if tag in by_tag), None)
            if send is not None:
                ours[row.broker_order_id] = send
        return _Look(book, trades, ours, await not_ours(self.journal, list(ours)))

    # mending -----------------------------------------------------------------------------------------------------

    async def _book_flattened(self, look: _Look, at: RoundInput) -> set[LineKey]:
        """Exits of `flatten --direct`: by its file, and where it was killed before it wrote down their end, by what the book shows under
        their tags. Returns the lines in which one has to wait for fills of ours."""
        sends = read_sends(home())
        ended = ended_in_file(sends, at.account, at.target)
        ended += ended_in_book(sends, at.account, at.target, look.book.rows, look.trades)
        if not ended:
            return set()
        there = await booked(self.journal, at.account, look.book.trading_day, list(look.sends))
        unsettled = {
            (f"{row.exchange}:{row.tradingsymbol}", row.product)
            for row in look.ours
            if look.listed(row) != row.filled_quantity or look.unbooked(row, there)
        }
        done = await book_flattened(self.journal, ended, unsettled)
        return {LineKey.parse(f"{name}:{product}") for name, product in done.waiting}

    async def _mend(self, look: _Look, at: RoundInput) -> _Mended:
        """Adopt rows that turned up late (also of ended orders: what still works of one is cancelled), book their fills, and wake
        workflows the book is ahead of."""
        there = await booked(self.journal, at.account, look.book.trading_day, list(look.sends))
        done = _Mended([], [])
        for row in look.ours:
            send, unbooked = look.sends[row.broker_order_id], look.unbooked(row, there)
            known = send.broker_order_id == row.broker_order_id
            if send.current and not send.status.is_end:
                if not known or unbooked or row.is_end:
                    await self._hint(send.order_id, row)
                    done.hinted.append(send.order_id)
            elif not known or unbooked or not row.is_end or look.listed(row) < row.filled_quantity or _may_move(send):
                late = await self.commands.adopt_late_row(LateRowInput(broker_order_id=row.broker_order_id))
                if late.order_id is not None:
                    done.late.append(late)
        for order_id in await self.commands.journal.end_past_late(at.account, look.book.trading_day):
            log.warning("a late send's day ended with fills not listed", order_id=str(order_id))
            done.late.append(LateRowView(order_id=order_id, adopted=True, told="its day ended with fills not listed"))
        await self.commands.finish_left()
        return done

    async def _hint(self, order_id: UUID, row: BookRow) -> None:
        handle = self.client.get_workflow_handle(order_workflow_id(self.journal.broker, order_id))
        try:
            await handle.signal(order_work.HINT, BrokerHint(status=row.status, source="reconciliation"))
        except RPCError as error:
            if (
                error.status is not RPCStatusCode.NOT_FOUND
            ):  # a workflow that is gone is started again by the next round
                raise Transient(f"Temporal does not answer: {error.message}") from error

    # keeping -----------------------------------------------------------------------------------------------------

    async def _keep(
        self,
        at: RoundInput,
        began: datetime,
        day: date,
        comparison: Comparison,
        look: _Look,
        mended: _Mended,
        seen: Day,
    ) -> bool:
        foreign = look.foreign
        found: dict[str, Any] = {
            "lines": [
                ReconciledLine(
                    exchange=line.key.exchange,
                    tradingsymbol=line.key.tradingsymbol,
                    product=line.key.product,
                    broker=line.broker,
                    ours=line.ours,
                    foreign=line.foreign,
                    drift=line.drift,
                    delivered=line.delivered,
                    uncovered=line.uncovered,
                ).model_dump(mode="json")
                for line in comparison.lines
            ],
            "foreign_orders": [_foreign(row).model_dump(mode="json") for row in foreign[:FOREIGN_LISTED]],
            "foreign_orders_count": len(foreign),
            "late": [late.model_dump(mode="json") for late in mended.late],
        }
        return await store_judged(
            self.journal,
            round_id=at.round_id,
            account=at.account,
            day=day,
            began_at=began,
            found=found,
            openings=comparison.openings,
            rest=comparison.rest,
            foreign_trades=_count_foreign(look),
            seen=seen,
        )


def _may_move(send: OurSend) -> bool:
    """Exits leave room for it until it is shown to have ended with all its fills booked."""
    return send.state is SendState.LATE


def _told(mended: _Mended, comparison: Comparison | None, look: _Look, why_not: str | None = None) -> Compared:
    lines = comparison.lines if comparison else ()
    ids = [(late.order_id, late.adopted) for late in mended.late if late.order_id is not None]
    return Compared(
        judged=comparison is not None,
        why_not=why_not,
        late_fills=sum(late.fills_booked for late in mended.late),
        adopted=tuple(order_id for order_id, adopted in ids if adopted),
        touched=tuple(order_id for order_id, _ in ids),
        drifting=sum(1 for line in lines if line.drift),
        foreign=len(look.foreign),
    )


def _sick(look: _Look, account: str, day: date, known: set[str], seen: Day) -> str | None:
    """Why this look is no evidence: another account's, another day's, or without orders and trades we know to be there."""
    stranger = _of_another(look.book, account, day)
    if stranger:
        return stranger
    missing = known - {row.broker_order_id for row in look.book.rows}
    if missing:
        return f"the book lacks {len(missing)} orders the journal knows of"
    fewer = seen.foreign_trades - _count_foreign(look)
    return f"{fewer} trades of today that were listed before are gone" if fewer > 0 else None


def _of_another(book: Book, account: str, day: date) -> str | None:
    """Why nothing in this book is for us: it is another account's or another day's."""
    if book.account != account:
        return f"it is the book of {book.account}, not of {account}"
    if book.trading_day != day:
        return f"it is the book of {book.trading_day}, asked for on {day}"
    return None


def _count_foreign(look: _Look) -> int:
    """Trades the book lists, ours too: a foreign order that is adopted must not look like trades that are gone."""
    return sum(len(look.trades.get(row.broker_order_id, ())) for row in look.book.rows)


def _moving(first: _Look, second: _Look, before: Booked, after: Booked, *, young_s: float) -> set[LineKey]:
    """Lines in which something happens just now, so that their figures are not of one moment."""
    recent = utc_now() - timedelta(seconds=young_s)
    lagging = {
        LineKey(row.exchange, row.tradingsymbol, row.product)
        for row in second.book.rows
        if second.listed(row) != row.filled_quantity
    }
    young = set()
    for trade in second.day_trades():
        send = second.sends.get(trade.broker_order_id)
        if send is None or send.status.is_end or trade.filled_at < recent:
            continue
        if (trade.broker_order_id, trade.trade_id) not in after.trades:
            young.add(trade.key)
    return moving_lines(first.day_trades(), second.day_trades(), before.held, after.held, lagging, young)


def _net(positions: Sequence[BrokerPosition]) -> dict[LineKey, int]:
    net: dict[LineKey, int] = defaultdict(int)
    for row in positions:
        net[LineKey(row.exchange, row.tradingsymbol, row.product)] += row.quantity
    return dict(net)


def _foreign(row: BookRow) -> ForeignOrder:
    return ForeignOrder(
        broker_order_id=row.broker_order_id,
        tags=row.tags,
        status=row.status,
        exchange=row.exchange,
        tradingsymbol=row.tradingsymbol,
        product=row.product,
        side=row.side,
        quantity=row.quantity,
        filled_quantity=row.filled_quantity,
    )
