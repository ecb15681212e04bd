"""What an order's workflow may ask of a broker: send once, look at the book, look up by tag. Run by the leased process alone.

Every send is claimed in the journal before a byte leaves; what comes back is journalled before it is reported.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import structlog
from temporalio import activity

from activities.again import again
from activities.exit_cover import Cover
from activities.heartbeats import beating
from core import failpoints, logging, metrics, order_work
from core.brokers.pacer import Held, Pacer
from core.brokers.port import Book, BookRow, PlaceRequest, Trader
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.errors import NotPlaced, OutcomeUnknown
from core.order_work import LookInput, OrderView, PlaceInput
from core.storage.claims import Claim, ClaimResult, LeaseProof, claim_send, decided_elsewhere
from core.storage.evidence import books_seen, record_book
from core.storage.journal import Journal, JournalOrder, exit_is_short, seconds_since
from core.trading.absence import Verdict, judge
from core.trading.calendar import TradingCalendar, session_kind
from core.trading.orders import SeenFill, SeenOrder, end_of
from core.trading.types import Exchange, Intent, OrderStatus, OrderType, Product, SendState, Side, Validity

log = logging.get(__name__)

_UNPLACEABLE = {
    ClaimResult.KILLED: (OrderStatus.REJECTED, "KILL_SWITCH: the kill switch is on; it binds entries"),
    ClaimResult.CANCELLED: (OrderStatus.CANCELLED, "cancelled before it was sent"),
    ClaimResult.FLAT: (
        OrderStatus.CANCELLED,
        "nothing left to exit: the position is flat and no order of ours would change that",
    ),
}


class _InDoubt(Exception):
    """An exit was not claimed: another order of its position is in doubt, so nobody knows what is left to exit."""


LOOKS = 12
"""Looks and look-ups in flight at most: more at once would keep the process from its heartbeats on a busy machine."""

LOOK_WAIT_S = 1.0
"""Longest wait of one more; then Temporal brings it again in LOOK_AGAIN_S. It holds a slot that an exit may need."""

LOOK_AGAIN_S = 2.0

FOLDS = 4
"""Looks that write to the journal at once: connections are left to those who send."""


@dataclass(slots=True)
class BrokerCalls:
    """The activities of one broker's two queues."""

    journal: Journal
    trader: Trader
    reader: BookReader
    pacer: Pacer
    proof: LeaseProof
    calendar: TradingCalendar
    waits_for: Callable[[], str | None] = lambda: None
    """Why nothing can be asked of the broker now (Trader.waits_for): then no token is taken and nothing is claimed."""
    holds_back: Callable[[dict[str, Any]], Awaitable[str | None]] | None = None
    """Why this exit must not go though the journal would let it (ExitBounds): asked right before it is claimed."""
    covers: Callable[[dict[str, Any]], Awaitable[Cover | None]] | None = None
    """What the broker's net leaves this exit to close (ExitCover)."""
    looking: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(LOOKS))
    folding: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(FOLDS))
    covering: defaultdict[tuple[str, ...], asyncio.Lock] = field(
        init=False, default_factory=lambda: defaultdict(asyncio.Lock)
    )
    """Exits of one line of the broker's net, of whatever strategy, take turns from the look at it to their claim."""

    @activity.defn(name=order_work.PLACE_ORDER)
    async def place_order(self, place: PlaceInput) -> OrderView:
        """Claim and send. Returns where the order stands; raises only where nothing was sent for certain, to be tried again."""
        async with beating():
            found = await self.journal.load(place.order_id)
            self._bind(found)
            if found.status is not OrderStatus.PENDING or found.send["send_no"] != place.send_no:
                return view(found)
            if found.send["state"] != SendState.INTENT:
                return self._report(await self._claimed_before(place))
            ended = await self._ended_unsent(found)
            if ended is not None:
                return self._report(ended)
            self._needs_session()
            urgent, wait = found.intent is Intent.EXIT, place.durations.pacer_wait
            async with self.pacer.held(urgent=urgent, timeout_s=wait) as leave:
                if leave is None:
                    raise again("PacerBusy", "no token of the broker's rate limit became free")
                try:
                    if found.intent is Intent.EXIT and self.holds_back is not None:
                        why = await self.holds_back(found.order)
                        if why is not None:
                            raise _InDoubt(why)
                    return self._report(await self._in_turn(found, place, leave))
                except _InDoubt as doubt:
                    log.warning("an exit waits", reason=str(doubt))
                    return view(found, waits=str(doubt))

    @activity.defn(name=order_work.LOOK_AT_BOOK)
    async def look_at_book(self, look: LookInput) -> OrderView:
        """Read the book, requested after the workflow asked, and bring the journal to what it shows."""
        assert look.broker_order_id is not None
        asked = time.monotonic()
        self._needs_session()
        async with self._in_sight():
            await self._needs_account_of(look)
            rows = await self.reader.orders([look.broker_order_id], not_before=asked)
            row = rows.get(look.broker_order_id)
            return await (self._not_listed(look) if row is None else self._fold(look, row))

    @activity.defn(name=order_work.LOOK_UP_BY_TAG)
    async def look_up_by_tag(self, look: LookInput) -> OrderView:
        """Look for our tag in the whole book. Found: adopted. Not found: one more piece of evidence, judged."""
        async with self._in_sight():
            found = await self.journal.load(look.order_id)
            self._bind(found)
            self._needs_our_account(found.order)
            self._needs_session()
            send = found.send
            if found.order["broker_order_id"] is not None:
                return view(found)
            if send["send_no"] != look.send_no:
                return view(found)  # absence was proven before and the answer got lost: the next send is open
            # Read before the book is asked for: an order placed meanwhile says nothing against the book.
            known = await self.journal.broker_order_ids(send["account"], self.proof.target, send["trading_day"])
            book = await self.reader.book(not_before=time.monotonic())
            tag = send["tag"]
            row = await self._with_tag(tag, book)
            if row is None:
                return await self._still_absent(found, look, book, known)
            log.info("found by its tag", broker_order_id=row.broker_order_id, tag=tag)
            await self.journal.submitted(
                look.order_id, look.send_no, row.broker_order_id, "found in the book by its tag"
            )
            return await self._fold(look, row)

    async def _with_tag(self, tag: str, book: Book) -> BookRow | None:
        """Its row in the book; of a past day, which the book does not list, by the id that the tag leads to."""
        row = next((row for row in book.rows if tag in row.tags), None)
        id_of_tag = self.trader.profile.id_of_tag
        if row is not None or id_of_tag is None:
            return row
        name = id_of_tag(tag)
        return (await self.reader.orders([name], not_before=time.monotonic())).get(name)

    @asynccontextmanager
    async def _in_sight(self) -> AsyncIterator[None]:
        """One of the LOOKS that are in flight, with its heartbeat; raises "try again" when none becomes free in a moment."""
        async with beating():
            try:
                async with asyncio.timeout(LOOK_WAIT_S):
                    await self.looking.acquire()
            except TimeoutError:
                raise again("LooksBusy", f"{LOOKS} looks are in flight", LOOK_AGAIN_S) from None
            try:
                yield
            finally:
                self.looking.release()

    async def _needs_account_of(self, look: LookInput) -> None:
        """Before a look: the same broker order id may name another's order on another target."""
        if look.account is None or look.target is None:
            return self._needs_our_account((await self.journal.load(look.order_id)).order)
        self._needs_our_account({"account": look.account, "target": look.target})

    def _needs_our_account(self, order: Mapping[str, Any]) -> None:
        """What the book of another account or target lists, or does not list, says nothing."""
        elsewhere = decided_elsewhere(order, self.proof)
        if elsewhere is not None:
            raise again("WRONG_ACCOUNT", f"put KITE_TARGET and KITE_USER_ID back: {elsewhere}", 30.0)

    def _needs_session(self) -> None:
        why = self.waits_for()
        if why is not None:
            raise again("SESSION_EXPIRED", why)

    # sending -----------------------------------------------------------------------------------------------------

    async def _ended_unsent(self, found: JournalOrder) -> JournalOrder | None:
        """A cancelled order and an entry too old to act on end here; an exit out of session waits."""
        order = found.order
        if order["cancel_requested"]:
            status, reason = _UNPLACEABLE[ClaimResult.CANCELLED]
            return await self.journal.end_unsent(order["order_id"], status, reason)
        if found.intent is Intent.ENTRY:
            age = seconds_since(order["origin_at"])
            if age <= order["age_limit_s"]:
                return None
            reason = (
                f"too old to act on: {age:.1f} s since the tick or command, the limit is {order['age_limit_s']:g} s"
            )
            if found.send["answer"]:
                reason += f"; the last try was not placed: {found.send['answer']}"
            elif (why := self.waits_for()) is not None:
                reason += f"; {why}"
            return await self.journal.end_unsent(order["order_id"], OrderStatus.EXPIRED, reason)
        kind = session_kind(Exchange(order["exchange"]))
        now = utc_now()
        if not self.calendar.phase(kind, now).is_open:
            opens = self.calendar.next_open(kind, now)
            wait = min(max((opens - now).total_seconds(), 1.0), 600.0)
            raise again("SessionClosed", f"the session is closed; an exit waits for {opens.isoformat()}", wait)
        return None

    async def _in_turn(self, found: JournalOrder, place: PlaceInput, leave: Held) -> JournalOrder:
        if _stopping():
            raise again("Stopping", "this worker stops before the claim; the next one sends")
        if found.intent is Intent.ENTRY:  # again: it may have grown too old while it waited for its turn
            ended = await self._ended_unsent(found)
            if ended is not None:
                return ended
        return await self._claim_and_send(found, place, leave)

    async def _claim_and_send(self, found: JournalOrder, place: PlaceInput, leave: Held) -> JournalOrder:
        await failpoints.reached("place.before_claim")
        async with self._covered(found) as cover:
            deadline = time.monotonic() + place.durations.send_deadline
            if found.intent is Intent.ENTRY:  # its age is judged once more, just before a byte leaves
                left = found.order["age_limit_s"] - seconds_since(found.order["origin_at"])
                deadline = min(deadline, time.monotonic() + left)
            claim = await claim_send(
                self.journal,
                place.order_id,
                place.send_no,
                self.proof,
                place.durations.send_deadline,
                at_most=None if cover is None else cover.left,
            )
        await failpoints.reached("place.after_claim")
        if claim.result is ClaimResult.CLAIMED:
            return await self._send(found, place, claim, deadline, leave)
        if claim.result is ClaimResult.UNCOVERED and cover is not None:
            raise _InDoubt(cover.told())
        return await self._not_claimed(found, place, claim)

    @asynccontextmanager
    async def _covered(self, found: JournalOrder) -> AsyncIterator[Cover | None]:
        """What the broker's net leaves of an exit, in turn: nobody else of that line looks or claims meanwhile. None: no bound."""
        if found.intent is not Intent.EXIT or self.covers is None:
            yield None
            return
        line = tuple(str(found.order[name]) for name in ("exchange", "tradingsymbol", "product"))
        async with self.covering[line]:
            cover = await self.covers(found.order)
            yield cover
            if cover is not None and cover.left:
                log.warning(
                    "an exit goes no further than the broker's net", line=cover.line, net=cover.net, left=cover.left
                )

    async def _of_another_account(self, found: JournalOrder, told: str) -> JournalOrder:
        """An entry ends here, unsent; an exit waits for a person, who puts the settings back: what it should close is there."""
        log.error("an order of another account or target", reason=told)
        if found.intent is Intent.EXIT:
            raise _InDoubt(f"waits: {told}")
        return await self.journal.end_unsent(found.order["order_id"], OrderStatus.REJECTED, f"WRONG_ACCOUNT: {told}")

    async def _claimed_before(self, place: PlaceInput) -> JournalOrder:
        """Whoever claimed it may have sent it: only the book can tell."""
        return await self.journal.unknown(
            place.order_id, place.send_no, "a worker claimed the send and did not report what came of it"
        )

    async def _not_claimed(self, found: JournalOrder, place: PlaceInput, claim: Claim) -> JournalOrder:
        if claim.result is ClaimResult.NOT_OURS:
            raise again("LeaseLost", "another process holds the broker's lease now", 1.0)
        if claim.result is ClaimResult.ALREADY:
            return await self._claimed_before(place)
        if claim.soon:
            raise again("EntryBeingSent", claim.told, 0.2)
        if claim.result is ClaimResult.WAITS:
            raise again("OthersWork", claim.told)
        if claim.result is ClaimResult.IN_DOUBT and found.intent is Intent.ENTRY:  # again, until it is too old
            raise again("InstrumentInDoubt", claim.told, 1.0)
        if claim.result is ClaimResult.IN_DOUBT:
            raise _InDoubt(claim.told)
        if claim.result is ClaimResult.ELSEWHERE:
            return await self._of_another_account(found, claim.told)
        status, reason = _UNPLACEABLE[claim.result]
        return await self.journal.end_unsent(place.order_id, status, claim.told or reason)

    async def _send(
        self, found: JournalOrder, place: PlaceInput, claim: Claim, deadline: float, leave: Held
    ) -> JournalOrder:
        """The one place where an order leaves. The claim is committed; whatever happens now is journalled."""
        request = replace(_request(found, claim.quantity, deadline), leaves=leave.turn.leaves)
        called = time.monotonic()
        metrics.order_step_seconds.labels(self.journal.broker.value, "tick_to_send").observe(
            seconds_since(found.order["origin_at"])
        )
        leave.used = True
        try:
            broker_order_id = await self.trader.place(request)
            metrics.order_step_seconds.labels(self.journal.broker.value, "broker_answer").observe(
                time.monotonic() - called
            )
        except NotPlaced as refusal:
            answer = f"{refusal.code}: {refusal}"
            if not refusal.retryable:
                log.info("refused", code=refusal.code, reason=str(refusal))
                return await self.journal.refused(place.order_id, place.send_no, answer)
            log.info("not placed, to be tried again", code=refusal.code, reason=str(refusal))
            leave.refused(refusal.code)
            await self.journal.release(place.order_id, place.send_no, answer)
            raise again(refusal.code, f"not placed: {answer}") from refusal
        except OutcomeUnknown as doubt:
            log.warning("sent, no answer", reason=str(doubt))
            return await self.journal.unknown(place.order_id, place.send_no, str(doubt))
        except Exception as surprise:
            log.exception("sending failed in an unforeseen way; the book must tell")
            return await self.journal.unknown(place.order_id, place.send_no, f"{type(surprise).__name__}: {surprise}")
        await failpoints.reached("place.after_send")
        sent = await self.journal.submitted(place.order_id, place.send_no, broker_order_id, "accepted")
        await failpoints.reached("place.after_record")
        return sent

    # looking -----------------------------------------------------------------------------------------------------

    async def _fold(self, look: LookInput, row: BookRow) -> OrderView:
        trades: list[SeenFill] = []
        if row.filled_quantity > 0:
            listed = await self.reader.trades([row.broker_order_id], not_before=time.monotonic())
            trades = [
                SeenFill(t.trade_id, t.quantity, t.price, t.filled_at) for t in listed.get(row.broker_order_id, ())
            ]
        seen = SeenOrder(row.is_acked, end_of(row.status), row.quantity, row.filled_quantity, row.status_message)
        await failpoints.reached("look.before_fold")
        async with self.folding:
            found = await self.journal.fold(look.order_id, row.broker_order_id, seen, trades)
        await failpoints.reached("look.after_fold")
        self._bind(found)
        lagging = not found.status.is_end and sum(t.quantity for t in trades) < row.filled_quantity
        return self._report(found, lagging=lagging)

    async def _not_listed(self, look: LookInput) -> OrderView:
        """The book has no row of an order that the broker gave an id: told at once, a person's to decide once its day is over."""
        found = await self.journal.load(look.order_id)
        self._bind(found)
        day, today = found.send["trading_day"], trading_day(utc_now())
        log.warning("the book does not list our order", broker_order_id=look.broker_order_id, sent_on=str(day))
        if found.status.is_end or found.send["broker_order_id"] != look.broker_order_id:
            return view(found)
        why = f"the book of {today} does not list broker order {look.broker_order_id}, sent on {day}"
        if today > day:
            why += ", and the book of that day is gone"
            return self._report(await self.journal.unresolved(look.order_id, look.send_no, why))
        late = seconds_since(found.send["claimed_at"]) > look.durations.absence_after
        return view(found, evidence=why, missing=late)

    async def _still_absent(self, found: JournalOrder, look: LookInput, book: Book, known: set[str]) -> OrderView:
        send = found.send
        why_sick = _sick(book, send["trading_day"], send["account"], known)
        await record_book(self.journal, look.order_id, look.send_no, book, why_sick)
        verdict, told = judge(
            await books_seen(self.journal, look.order_id, look.send_no),
            deadline_at=send["deadline_at"],
            send_day=send["trading_day"],
            today=trading_day(utc_now()),
            durations=look.durations,
            empty_proves=self.trader.profile.empty_book_proves,
        )
        if verdict is Verdict.PROVEN:
            log.warning("absence proven", evidence=told)
            absent = await self.journal.absent(look.order_id, look.send_no, f"never reached the broker: {told}")
            return self._report(absent)
        if verdict in {Verdict.DAY_OVER, Verdict.EMPTY}:
            return self._report(await self.journal.unresolved(look.order_id, look.send_no, told))
        return view(found, evidence=told + (f"; the last book does not count: {why_sick}" if why_sick else ""))

    def _bind(self, found: JournalOrder) -> None:
        order = found.order
        structlog.contextvars.bind_contextvars(
            broker=self.journal.broker.value,
            order_id=str(order["order_id"]),
            correlation_id=str(order["correlation_id"]),
        )

    def _report(self, found: JournalOrder, *, lagging: bool = False) -> OrderView:
        """One log line and one count a step; then what the workflow needs to know."""
        order, broker = found.order, self.journal.broker.value
        for status in found.steps:
            metrics.orders.labels(broker, status.value).inc()
            log.info(
                "order step",
                status=status.value,
                what=f"{order['side']} {found.send['quantity']} {order['tradingsymbol']}",
                broker_order_id=order["broker_order_id"],
                filled_quantity=order["filled_quantity"],
                reason=order["reason"],
            )
        if found.status is OrderStatus.FILLED and found.steps:
            metrics.order_step_seconds.labels(broker, "tick_to_fill").observe(seconds_since(order["origin_at"]))
        return view(found, lagging=lagging)


def _sick(book: Book, day: date, account: str, known: set[str]) -> str | None:
    """Why this book is no evidence: another account's, another day's, or missing orders that were `known` when it was asked for."""
    if book.account != account:
        return f"it is the book of {book.account}, not of {account}"
    if book.trading_day != day:
        return f"it is the book of {book.trading_day}, the order was sent on {day}"
    missing = known - {row.broker_order_id for row in book.rows}
    return f"it lacks {len(missing)} orders the journal knows of" if missing else None


def view(
    found: JournalOrder,
    *,
    lagging: bool = False,
    evidence: str | None = None,
    missing: bool = False,
    waits: str | None = None,
) -> OrderView:
    """What the workflow needs to know of an order."""
    order = found.order
    return OrderView(
        status=found.status,
        send_no=order["send_no"],
        quantity=found.filled_before + found.send["quantity"],
        filled_quantity=order["filled_quantity"],
        average_price=order["average_price"],
        broker_order_id=order["broker_order_id"],
        realized_pnl=order["realized_pnl"],
        charges=order["charges"],
        reason=order["reason"],
        lagging=lagging,
        missing=missing,
        short=exit_is_short(found),
        evidence=evidence,
        waits=waits,
        unexited=found.unexited,
    )


def _request(found: JournalOrder, quantity: int, deadline: float) -> PlaceRequest:
    order = found.order
    return PlaceRequest(
        tag=found.send["tag"],
        exchange=Exchange(order["exchange"]),
        tradingsymbol=order["tradingsymbol"],
        instrument_token=order["instrument_token"],
        instrument_type=order["instrument_type"],
        tick_size=order["tick_size"],
        side=Side(order["side"]),
        quantity=quantity,
        order_type=OrderType(order["order_type"]),
        product=Product(order["product"]),
        validity=Validity(order["validity"]),
        price=order["price"],
        trigger_price=order["trigger_price"],
        deadline=deadline,
    )


def _stopping() -> bool:
    """A worker that was asked to stop has no time for the broker's answer to a send it has not begun."""
    return activity.is_worker_shutdown()
