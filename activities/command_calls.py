"""Carrying out commands on orders at the broker: cancel, modify, a person's resolution, and late rows. Run by the leased process.

Sends a modify once and reads it back; asks for a cancel again only when the book shows the order still working. Decides nothing from
silence: an outcome rests on the broker's certain refusal or on a book.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.again import again
from activities.broker_calls import view
from activities.heartbeats import beating
from core import failpoints, logging, order_work
from core.brokers.pacer import Pacer
from core.brokers.port import BookRow, Trade, Trader
from core.brokers.reader import BookReader
from core.clock import utc_now
from core.errors import NotPlaced, OutcomeUnknown, Transient
from core.order_work import CommandCall, CommandNext, CommandResult, LateRowInput, LateRowView
from core.storage.claims import LeaseProof, decided_elsewhere
from core.storage.command_journal import CommandJournal
from core.storage.commands import CommandOutcome, CommandRecord, CommandState, read_command, unfinished_commands
from core.storage.journal import JournalOrder, seconds_since
from core.trading.commands import (
    PERSONS_AGE_S,
    Changes,
    CommandKind,
    Resolution,
    fill_refusal,
    given_fill,
    refusals,
)
from core.trading.orders import SeenFill, SeenOrder, end_of
from core.trading.types import OrderStatus, SendState

log = logging.get(__name__)

MODIFY_UNDER_WAY = frozenset({"MODIFY PENDING", "MODIFY VALIDATION PENDING"})
CANCEL_UNDER_WAY = "CANCEL PENDING"

_AT_BROKER = frozenset({OrderStatus.SUBMITTED, OrderStatus.ACKED, OrderStatus.PARTIALLY_FILLED})

TOKEN_WAIT_S = 0.5
"""Longest wait for leave to send; a command that waits holds one of the queue's slots, which exits need."""


class Unreadable(Exception):
    """The broker's book cannot be read now; said in the command's evidence, and tried again later."""


@dataclass(slots=True)
class CommandCalls:
    """The activities of commands, on a broker's urgent queue. `pacer` limits cancels and modifies, which Kite counts apart
    from orders (kite.trade/docs/connect/v3/exceptions: 10 requests a second for all other endpoints together)."""

    journal: CommandJournal
    trader: Trader
    reader: BookReader
    pacer: Pacer
    proof: LeaseProof

    @activity.defn(name=order_work.CARRY_OUT)
    async def carry_out(self, call: CommandCall) -> CommandResult:
        """Go as far with a command as can be gone now. Safe to repeat: what is finished stays as it is."""
        async with beating():
            record = await read_command(self.journal.engine, call.request_id)
            found = await self.journal.load(call.order_id)
            self._bind(found)
            if record is None:
                return _done(found, f"no command {call.request_id} is journalled")
            if record.is_finished:
                return _done(found, f"{record.outcome}: {record.evidence}")
            steps = {
                CommandKind.CANCEL: self._cancel,
                CommandKind.MODIFY: self._modify,
                CommandKind.RESOLVE: self._resolve,
            }
            try:
                if found.status.is_end:
                    return await self._end_of(record, found)
                elsewhere = decided_elsewhere(found.order, self.proof)
                unsent = record.kind is CommandKind.CANCEL and found.send["state"] == SendState.INTENT
                if elsewhere is not None and not unsent:
                    return await self._later(
                        record, found, f"waits: put KITE_TARGET and KITE_USER_ID back: {elsewhere}"
                    )
                return await steps[record.kind](call, record, found)
            except Unreadable as why:
                return await self._later(record, found, f"the broker's book cannot be read: {why}")
            except (Transient, ApplicationError):
                raise
            except Exception as error:
                return await self._failed(record, found, error)

    async def _end_of(self, record: CommandRecord, found: JournalOrder) -> CommandResult:
        """The order has ended. Whether a modify that had left came in time, its row tells.

        Raises:
            ApplicationError: the row cannot be read now; to be tried again, for the order has nothing else to do.
        """
        if record.kind is not CommandKind.MODIFY or record.state is not CommandState.SENT:
            return await self._ended(record, found)
        elsewhere = decided_elsewhere(found.order, self.proof)
        if elsewhere is not None:
            raise again("WRONG_ACCOUNT", f"put KITE_TARGET and KITE_USER_ID back: {elsewhere}", 30.0)
        try:
            row = await self._row(found.send["broker_order_id"])
        except Unreadable as why:
            raise again("BookUnreadable", f"the broker's book cannot be read: {why}") from why
        if row is None:
            return await self._ended(
                record, found, "sent, and the book of its day is gone: nobody can tell if it came in time"
            )
        shown = f"the book of {utc_now():%H:%M:%S} UTC shows {_shown(row)}, {row.status}"
        changes = Changes.of(record.parameters)
        if not _shows(row, changes):
            return await self._ended(record, found, shown)
        found = await self.journal.modified(record.request_id, record.order_id, changes, shown)
        return _done(found, f"{CommandOutcome.APPLIED}: {shown}")

    async def _failed(self, record: CommandRecord, found: JournalOrder, error: Exception) -> CommandResult:
        """Carrying it out failed in an unforeseen way, and would again: the person is told, the order goes on. What may have left
        is still followed in the book."""
        log.exception(
            "a command failed in an unforeseen way", kind=record.kind.value, request_id=str(record.request_id)
        )
        told = f"failed: {type(error).__name__}: {error}"[:500]
        now = await read_command(self.journal.engine, record.request_id)
        found = await self.journal.load(record.order_id)
        if found.status.is_end:
            return await self._ended(record, found, told)
        if now is not None and now.state is CommandState.SENT:
            return await self._later(record, found, f"{told}; it may have reached the broker, the book will tell")
        return await self._finish(record, found, CommandOutcome.NOT_APPLIED, told)

    async def finish_left(self) -> int:
        """Give an end to the commands of orders that have ended, whose workflow may be gone. Returns to how many.

        Raises:
            Transient: the database is away.
        """
        finished = 0
        for record in await unfinished_commands(self.journal.engine, ended=True):
            found = await self.journal.load(record.order_id)
            if decided_elsewhere(found.order, self.proof) is not None:
                continue  # another account's or target's book tells it
            self._bind(found)
            try:
                await self._end_of(record, found)
            except ApplicationError as later:
                log.info("a command waits for the book", request_id=str(record.request_id), why=later.message)
                continue
            finished += 1
        return finished

    @activity.defn(name=order_work.ADOPT_LATE_ROW)
    async def adopt_late_row(self, late: LateRowInput) -> LateRowView:
        """Read the row and its trades, record them, and cancel it if it still works though its order has ended."""
        async with beating():
            row = (await self.reader.orders([late.broker_order_id], not_before=time.monotonic())).get(
                late.broker_order_id
            )
            if row is None:
                return LateRowView(told=f"the book does not list {late.broker_order_id}")
            adopted = await self.journal.adopt_late_row(
                row, await self._trades(row), await self.trader.account(), self.proof.target
            )
            if adopted is None:
                return LateRowView(told=f"{late.broker_order_id} is none of ours, or its workflow follows it")
            self._bind(adopted.found)
            told = adopted.told
            if adopted.working:
                told += f"; {await self._cancel_late(row)}"
            if adopted.adopted or adopted.booked:
                log.warning("late row adopted", what=told, fills_booked=adopted.booked, send_no=adopted.send_no)
            return LateRowView(
                order_id=adopted.found.order["order_id"],
                adopted=adopted.adopted,
                fills_booked=adopted.booked,
                working=adopted.working,
                told=told,
            )

    # cancel ------------------------------------------------------------------------------------------------------

    async def _cancel(self, call: CommandCall, record: CommandRecord, found: JournalOrder) -> CommandResult:
        """Stops an unsent order; waits for one not yet known; else asks the broker, and again while the book shows it working.

        Asking again is safe: a cancel names one broker order, changes nothing but its end, and one that is cancelled already is
        refused. It can neither open a position nor touch another order.
        """
        if found.send["state"] == SendState.INTENT:
            reason = f"cancelled before it was sent, by {record.requested_by}: {record.reason}"
            found = await self.journal.end_unsent(call.order_id, OrderStatus.CANCELLED, reason)
            if found.status.is_end:
                return await self._ended(record, found)
        broker_order_id = found.send["broker_order_id"]
        if broker_order_id is None or found.status not in _AT_BROKER:
            told = f"latched: the order is {found.status}; it is cancelled as soon as the broker shows it"
            await self.journal.noted(record.request_id, told)
            return CommandResult(view=view(found), next=CommandNext.WHEN_KNOWN, told=told)
        if record.state is CommandState.SENT:
            row = await self._row(broker_order_id)
            if row is None:
                return await self._later(record, found, f"the book does not list {broker_order_id}")
            found = await self._fold(found, row)
            if found.status.is_end:
                return await self._ended(record, found)
            if row.is_end or row.status == CANCEL_UNDER_WAY:
                return await self._later(record, found, f"the book shows it {row.status}; its end is being read")
        return await self._send_cancel(call, record, found, broker_order_id)

    async def _send_cancel(
        self, call: CommandCall, record: CommandRecord, found: JournalOrder, broker_order_id: str
    ) -> CommandResult:
        if not await self.pacer.acquire(urgent=True, timeout_s=TOKEN_WAIT_S):
            return await self._later(record, found, "no token of the broker's rate limit became free")
        if not await self._claimed(record, repeated=True):
            return await self._later(record, found, "the command was finished meanwhile")
        await failpoints.reached("cancel.before_send")
        try:
            await self.trader.cancel(broker_order_id)
            told = "asked; the book will tell"
        except NotPlaced as refusal:
            told = f"{refusal.code}: {refusal}"
            if not refusal.retryable:
                return await self._cancel_refused(call, record, found, broker_order_id, told)
        except OutcomeUnknown as doubt:
            told = f"asked, no answer ({doubt}); the book will tell"
        await failpoints.reached("cancel.after_send")
        log.info("cancel", broker_order_id=broker_order_id, answer=told, requested_by=record.requested_by)
        return await self._later(record, found, told)

    async def _cancel_refused(
        self, call: CommandCall, record: CommandRecord, found: JournalOrder, broker_order_id: str, words: str
    ) -> CommandResult:
        """Mostly because it has just ended: the book tells. Still working some looks later, the refusal is the outcome."""
        row = await self._row(broker_order_id)
        found = found if row is None else await self._fold(found, row)
        if found.status.is_end:
            return await self._ended(record, found)
        if row is None or seconds_since(record.sent_at or utc_now()) < 5 * call.durations.first_look:
            return await self._later(record, found, f"refused ({words}); the book does not show its end yet")
        told = f"refused: {words}; the book shows it {row.status}"
        return await self._finish(record, found, CommandOutcome.NOT_APPLIED, told)

    # modify ------------------------------------------------------------------------------------------------------

    async def _modify(self, call: CommandCall, record: CommandRecord, found: JournalOrder) -> CommandResult:
        """Sent once, then read back. Only a certain "not sent" lets it be sent later, while it is not too old."""
        changes = Changes.of(record.parameters)
        if record.state is CommandState.REQUESTED:
            why_not = await self._not_modifiable(record, found, changes)
            if why_not is not None:
                return await self._finish(record, found, CommandOutcome.NOT_APPLIED, why_not)
            stopped = await self._send_modify(call, record, found, changes)
            if stopped is not None:
                return stopped
        return await self._read_back(call, record, found, changes)

    async def _not_modifiable(self, record: CommandRecord, found: JournalOrder, changes: Changes) -> str | None:
        if found.order["cancel_requested"]:
            return "a cancel was asked for before"
        if found.status not in _AT_BROKER:
            return f"the order is {found.status}, the broker does not show it yet: ask again once it is ACKED"
        age = seconds_since(record.created_at)
        if age > PERSONS_AGE_S:
            last = f"; the last try: {record.evidence}" if record.evidence else ""
            return f"not sent, and too old now: {age:.0f} s, the limit is {PERSONS_AGE_S:g} s{last}"
        found_wrong = refusals(await self.journal.modifiable(record.order_id), changes)
        return "; ".join(found_wrong) or None

    async def _send_modify(
        self, call: CommandCall, record: CommandRecord, found: JournalOrder, changes: Changes
    ) -> CommandResult | None:
        """Send it; None: it may have arrived, so the book is to be read."""
        if not await self.pacer.acquire(urgent=True, timeout_s=TOKEN_WAIT_S):
            return await self._later(record, found, "no token of the broker's rate limit became free")
        # Counted from before it is marked as sent: a book read well after that, without the change, means that it is not coming.
        deadline = time.monotonic() + call.durations.send_deadline
        if not await self._claimed(record, repeated=False):
            return None
        await failpoints.reached("modify.before_send")
        try:
            await self.trader.modify(
                found.send["broker_order_id"],
                quantity=changes.quantity,
                price=changes.price,
                trigger_price=changes.trigger_price,
                order_type=None,
                deadline=deadline,
            )
            told = "accepted; the book will tell"
        except NotPlaced as refusal:
            told = f"{refusal.code}: {refusal}"
            if refusal.retryable:
                await self.journal.not_sent(record.request_id, told)
                return CommandResult(view=view(found), next=CommandNext.LATER, told=told)
            row = await self._row(found.send["broker_order_id"])
            found = found if row is None else await self._fold(found, row)
            if found.status.is_end:
                return await self._ended(record, found)
            return await self._finish(record, found, CommandOutcome.NOT_APPLIED, f"refused: {told}")
        except OutcomeUnknown as doubt:
            told = f"sent, no answer ({doubt}); the book will tell"
        await failpoints.reached("modify.after_send")
        log.info("modify", changes=changes.told(), answer=told, requested_by=record.requested_by)
        await self.journal.noted(record.request_id, told)
        return None

    async def _read_back(
        self, call: CommandCall, record: CommandRecord, found: JournalOrder, changes: Changes
    ) -> CommandResult:
        """APPLIED when the book shows the change; NOT_APPLIED by a book read well after the last moment it could arrive."""
        row = await self._row(found.send["broker_order_id"])
        if row is None:
            return await self._later(record, found, "the book does not list the order")
        shown = f"the book of {utc_now():%H:%M:%S} UTC shows {_shown(row)}, {row.status}"
        if _shows(row, changes):
            await self.journal.modified(record.request_id, record.order_id, changes, shown)
            found = await self._fold(found, row)
            log.info("modified", changes=changes.told(), requested_by=record.requested_by, reason=record.reason)
            return _done(found, f"{CommandOutcome.APPLIED}: {shown}")
        found = await self._fold(found, row)
        if row.is_end or found.status.is_end:
            return await self._finish(record, found, CommandOutcome.ORDER_ENDED, shown)
        sent_at = record.sent_at or utc_now()
        if row.status in MODIFY_UNDER_WAY or seconds_since(sent_at) < 2 * call.durations.send_deadline:
            return await self._later(record, found, shown)
        return await self._finish(record, found, CommandOutcome.NOT_APPLIED, shown)

    # resolve -----------------------------------------------------------------------------------------------------

    async def _resolve(self, call: CommandCall, record: CommandRecord, found: JournalOrder) -> CommandResult:
        """A person's word ends the doubt, unless the book contradicts it."""
        if found.status is not OrderStatus.UNRESOLVED:
            told = f"the order is {found.status}: only an UNRESOLVED order is a person's to decide"
            return await self._finish(record, found, CommandOutcome.NOT_APPLIED, told)
        resolution = Resolution(record.parameters["resolution"])
        row = await self._row_of(found, record.parameters.get("broker_order_id"))
        ours = row is not None and (
            found.send["tag"] in row.tags or row.broker_order_id == found.send["broker_order_id"]
        )
        who = f"{resolution} by {record.requested_by}: {record.reason}"
        log.warning("resolved by a person", resolution=resolution.value, requested_by=record.requested_by)
        if resolution is Resolution.ADOPT:
            return await self._adopt(record, found, row, who)
        if row is not None and ours:
            told = f"the book shows it as {row.broker_order_id} ({row.status}): adopt that"
            return await self._finish(record, found, CommandOutcome.NOT_APPLIED, told)
        if resolution is Resolution.NEVER_PLACED:
            found = await self.journal.resolved_never_placed(record.request_id, call.order_id, who)
            return _done(found, f"{CommandOutcome.APPLIED}: {who}")
        return await self._book_fill(record, found, who)

    async def _row_of(self, found: JournalOrder, named: str | None) -> BookRow | None:
        """The row a person named, or the one with our tag or id, in the present book."""
        asked = time.monotonic()
        wanted = named or found.send["broker_order_id"]
        try:
            if wanted is not None:
                return (await self.reader.orders([wanted], not_before=asked)).get(wanted)
            book = await self.reader.book(not_before=asked)
        except (Transient, NotPlaced) as error:
            raise Unreadable(str(error)) from error
        return next((row for row in book.rows if found.send["tag"] in row.tags), None)

    async def _adopt(self, record: CommandRecord, found: JournalOrder, row: BookRow | None, who: str) -> CommandResult:
        named = str(record.parameters.get("broker_order_id") or "")
        why_not = await self._not_adoptable(found, row, named)
        if why_not is not None or row is None:
            return await self._finish(record, found, CommandOutcome.NOT_APPLIED, why_not or "no such row")
        found = await self.journal.resolved_by_adoption(record.request_id, record.order_id, named, who)
        found = await self._fold(found, row)
        return _done(found, f"{CommandOutcome.APPLIED}: {who}; the book shows it {row.status}")

    async def _not_adoptable(self, found: JournalOrder, row: BookRow | None, named: str) -> str | None:
        order = found.order
        if row is None:
            return f"the book of this day does not list {named}: book its fills (book-fill), or never-placed if nothing filled"
        same = (row.exchange, row.tradingsymbol, row.side, row.product)
        if same != (order["exchange"], order["tradingsymbol"], order["side"], order["product"]):
            return f"{named} is {row.side} {row.exchange}:{row.tradingsymbol} {row.product}, not what this order is"
        return await self._of_another(found, named)

    async def _of_another(self, found: JournalOrder, named: str) -> str | None:
        owner = await self.journal.owner_of(named, found)
        if owner is None:
            return None
        whose = "an earlier send of this order" if owner == found.order["order_id"] else f"our order {owner}"
        return f"{named} is the broker order of {whose}: its fills are booked there"

    async def _book_fill(self, record: CommandRecord, found: JournalOrder, who: str) -> CommandResult:
        given: dict[str, Any] = record.parameters
        fill = given_fill(given)
        broker_order_id = given.get("broker_order_id") or found.send["broker_order_id"]
        if broker_order_id is None:
            why_not: str | None = "broker_order_id: the order has none yet; name the one the fill belongs to"
        else:
            left = found.send["quantity"] - found.send_filled
            why_not = fill_refusal(fill, left, utc_now()) or await self._of_another(found, str(broker_order_id))
        if why_not is not None:
            return await self._finish(record, found, CommandOutcome.NOT_APPLIED, why_not)
        found = await self.journal.resolved_by_fill(
            record.request_id, record.order_id, fill, str(broker_order_id), more=bool(given.get("more")), why=who
        )
        return _done(found, f"{CommandOutcome.APPLIED}: {who}")

    # how ---------------------------------------------------------------------------------------------------------

    async def _claimed(self, record: CommandRecord, *, repeated: bool) -> bool:
        """Mark the command as sent under our lease. Raises the activity's "try again" when the lease is another's now."""
        if await self.journal.claim_command(record.request_id, self.proof, again=repeated):
            return True
        if not await self.journal.holds(self.proof):
            raise again("LeaseLost", "another process holds the broker's lease now", 1.0)
        return False

    async def _row(self, broker_order_id: str) -> BookRow | None:
        try:
            rows = await self.reader.orders([broker_order_id], not_before=time.monotonic())
        except (Transient, NotPlaced) as error:
            raise Unreadable(str(error)) from error
        return rows.get(broker_order_id)

    async def _trades(self, row: BookRow) -> tuple[Trade, ...]:
        if row.filled_quantity <= 0:
            return ()
        listed = await self.reader.trades([row.broker_order_id], not_before=time.monotonic())
        return listed.get(row.broker_order_id, ())

    async def _fold(self, found: JournalOrder, row: BookRow) -> JournalOrder:
        """Bring the order to what the book shows of it."""
        try:
            trades = [SeenFill(t.trade_id, t.quantity, t.price, t.filled_at) for t in await self._trades(row)]
        except (Transient, NotPlaced) as error:
            raise Unreadable(str(error)) from error
        seen = SeenOrder(row.is_acked, end_of(row.status), row.quantity, row.filled_quantity, row.status_message)
        return await self.journal.fold(found.order["order_id"], row.broker_order_id, seen, trades)

    async def _cancel_late(self, row: BookRow) -> str:
        if not await self.journal.holds(self.proof):
            raise again("LeaseLost", "another process holds the broker's lease now", 1.0)
        if not await self.pacer.acquire(urgent=True, timeout_s=TOKEN_WAIT_S):
            return "no token of the broker's rate limit became free to cancel it"
        try:
            await self.trader.cancel(row.broker_order_id)
        except (NotPlaced, OutcomeUnknown) as error:
            return f"its cancel: {error}"
        return "a cancel was asked for"

    async def _ended(self, record: CommandRecord, found: JournalOrder, shown: str = "") -> CommandResult:
        outcome = await self.journal.finish_by_end(record, found, shown)
        return _done(found, f"{outcome}: the order is {found.status}")

    async def _finish(
        self, record: CommandRecord, found: JournalOrder, outcome: CommandOutcome, told: str
    ) -> CommandResult:
        await self.journal.finish_command(record.request_id, outcome, told)
        log.info("command finished", kind=record.kind.value, outcome=outcome.value, why=told)
        return _done(found, f"{outcome}: {told}")

    async def _later(self, record: CommandRecord, found: JournalOrder, told: str) -> CommandResult:
        await self.journal.noted(record.request_id, told)
        return CommandResult(view=view(found), next=CommandNext.LATER, told=told)

    def _bind(self, found: JournalOrder) -> None:
        structlog.contextvars.bind_contextvars(
            broker=self.journal.broker.value,
            order_id=str(found.order["order_id"]),
            correlation_id=str(found.order["correlation_id"]),
        )


def _done(found: JournalOrder, told: str) -> CommandResult:
    return CommandResult(view=view(found), next=CommandNext.DONE, told=told)


def _shows(row: BookRow, changes: Changes) -> bool:
    return (
        (changes.price is None or row.price == changes.price)
        and (changes.trigger_price is None or row.trigger_price == changes.trigger_price)
        and (changes.quantity is None or row.quantity == changes.quantity)
    )


def _shown(row: BookRow) -> str:
    trigger = f", trigger price {row.trigger_price}" if row.trigger_price else ""
    return f"price {row.price}{trigger}, quantity {row.quantity}"
