"""What a kill switch's workflow may ask of the broker, run by the leased process alone: see the account, close what is not ours.

Closes FOREIGN only where a person typed --include-foreign; each such send is claimed in the journal first and never repeated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.again import again
from activities.heartbeats import beating
from activities.kill_holdings import key_of
from core import kill_work, logging
from core.brokers.pacer import Held, Pacer
from core.brokers.port import Book, BookRow, BrokerPosition, PlaceRequest, Trader
from core.brokers.reader import BookReader
from core.clock import utc_now
from core.config import home
from core.errors import BrokerError, NotPlaced, OutcomeUnknown, Transient
from core.flatten_file import read_sends
from core.kill_work import AccountOrder, AccountPosition, AccountSeen, AccountUnbooked, KillInput
from core.storage import kill_foreign as foreign
from core.storage.claims import LeaseProof
from core.storage.flatten import to_be_booked
from core.storage.journal import Journal
from core.storage.kill import beyond_the_journal, open_business, read_kill, sends_known
from core.storage.kill_foreign import ForeignExit
from core.trading.kill import Key
from core.trading.types import OrderType, Product, Side, Validity

log = logging.get(__name__)

MOST = 5
"""Exits of one foreign position under one switch: what these do not close is a person's."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The account at one moment."""

    book: Book
    positions: tuple[BrokerPosition, ...]
    unbooked: tuple[AccountUnbooked, ...]
    flattened: frozenset[Key]

    @property
    def moving(self) -> set[Key]:
        """Positions with something of ours that is to be booked: how much of them is not ours cannot be told."""
        return {(row.instrument, Product(row.product)) for row in self.unbooked} | self.flattened


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The next exit of what is not ours in a position. `number` counts those of this switch."""

    position: BrokerPosition
    quantity: int
    number: int


@dataclass(slots=True)
class KillBrokerCalls:
    """The activities of one broker's urgent queue that serve kill switches."""

    journal: Journal
    trader: Trader
    reader: BookReader
    pacer: Pacer
    proof: LeaseProof

    @activity.defn(name=kill_work.SEE_ACCOUNT)
    async def see_account(self, kill: KillInput) -> AccountSeen:
        """Positions and working orders, asked for now."""
        structlog.contextvars.bind_contextvars(broker=kill.broker.value, correlation_id=str(kill.kill_id))
        async with beating():
            look = await self._see(kill.account)
            return AccountSeen(
                positions=tuple(
                    AccountPosition(
                        instrument=_name(row),
                        product=row.product.value,
                        quantity=row.quantity,
                        instrument_token=row.instrument_token,
                    )
                    for row in look.positions
                ),
                working=tuple(
                    AccountOrder(broker_order_id=row.broker_order_id, tags=row.tags, what=_what(row))
                    for row in look.book.rows
                    if not row.is_end
                ),
                unbooked=look.unbooked,
                flattened=tuple((name, product.value) for name, product in sorted(look.flattened)),
            )

    async def _see(self, account: str) -> _Look:
        """Positions first: a fill that is in them is in the book that is read after them, so none of ours looks like somebody else's."""
        try:
            positions = await self.trader.positions()
            book = await self.reader.book(not_before=time.monotonic())
        except (BrokerError, Transient) as error:
            raise again(type(error).__name__, f"the account cannot be read: {error}") from error
        unbooked = tuple(
            AccountUnbooked(
                order_id=send.order_id,
                strategy_id=send.strategy_id,
                instrument=_name(row),
                product=row.product.value,
                what=f"{row.side} {row.filled_quantity} {_name(row)} {row.product} filled ({row.broker_order_id})",
            )
            for row, send in await beyond_the_journal(self.journal.engine, account, self.proof.target, book.rows)
        )
        flattened = await to_be_booked(self.journal, read_sends(home()), account, self.proof.target, book.rows)
        return _Look(book, tuple(positions), unbooked, flattened)

    @activity.defn(name=kill_work.CLOSE_FOREIGN)
    async def close_foreign(self, kill: KillInput) -> tuple[str, ...]:
        """Cancel orders and close positions that are not ours. Returns what could not be done, in words."""
        structlog.contextvars.bind_contextvars(broker=kill.broker.value, correlation_id=str(kill.kill_id))
        async with beating():
            record = await read_kill(self.journal.engine, kill.kill_id)
            if record is None or record.released_at is not None or not record.include_foreign:
                return ()
            look = await self._see(kill.account)
            sends = await foreign.sends_that_count(self.journal.engine, kill.account, kill.kill_id)
            await self._follow(sends, look.book)
            await self._end_past(foreign.past(sends, look.book))
            lost = _lost(kill, await foreign.sends_that_count(self.journal.engine, kill.account, kill.kill_id))
            told, working = await self._cancel(kill, look.book, {row["tag"] for row in sends})
            if working:
                return (*lost, *told)
            for position in look.positions:
                told += await self._close(kill, _key(position), look)
            return (*lost, *told)

    async def _follow(self, sends: list[dict[str, Any]], book: Book) -> None:
        """Bring our foreign exits to what the book shows, looked up by their tags."""
        for send in sends:
            row = next((row for row in book.rows if send["tag"] in row.tags), None)
            if row is None or send["state"] in {foreign.DONE, foreign.REFUSED}:
                continue
            state = foreign.DONE if row.is_end else foreign.SENT
            answer = f"{row.status}, filled {row.filled_quantity}/{row.quantity}"
            await foreign.note_foreign(
                self.journal.engine, send["tag"], state, broker_order_id=row.broker_order_id, answer=answer
            )

    async def _end_past(self, sends: list[Mapping[str, Any]]) -> None:
        """An exit of an earlier day holds the switch up no longer; the workflow tells a person of it."""
        if sends:
            log.warning("the day of foreign exits ended unseen", tags=[send["tag"] for send in sends])
            await foreign.end_past(self.journal.engine, sends)

    async def _cancel(self, kill: KillInput, book: Book, our_tags: set[str]) -> tuple[list[str], int]:
        """Ask a cancel of every working order that is not ours; a cancel may be repeated. Returns troubles, and how many still work."""
        rows = [row for row in book.rows if not row.is_end and not our_tags & set(row.tags)]
        tags = [tag for row in rows for tag in row.tags]
        names = [row.broker_order_id for row in rows]
        known = await sends_known(self.journal.engine, kill.account, self.proof.target, tags, names)
        rows = [row for row in rows if not {row.broker_order_id, *row.tags} & known.keys()]
        told: list[str] = []
        for row in rows:
            async with self.pacer.held(urgent=True) as leave:
                if leave is None:
                    raise _busy()
                leave.used = True
                try:
                    await self.trader.cancel(row.broker_order_id)
                    log.warning("cancel of a foreign order asked", broker_order_id=row.broker_order_id, what=_what(row))
                except (NotPlaced, OutcomeUnknown) as error:
                    told.append(f"cancel of {_what(row)} ({row.broker_order_id}): {error}")
        return told, len(rows)

    async def _close(self, kill: KillInput, key: Key, before: _Look) -> list[str]:
        """Judged by `before` whether anything is to be done, and by a look taken when it may leave at last how much."""
        wanted = await self._wanted(kill, key, before)
        if not isinstance(wanted, _Wanted):
            return wanted
        async with self.pacer.held(urgent=True) as leave:
            if leave is None:
                raise _busy()
            wanted = await self._wanted(kill, key, await self._see(kill.account))
            return await self._send(kill, wanted, leave) if isinstance(wanted, _Wanted) else wanted

    async def _wanted(self, kill: KillInput, key: Key, look: _Look) -> _Wanted | list[str]:
        """The exit of what is not ours in one position; or none, with what a person is told of it."""
        position = next((row for row in look.positions if _key(row) == key), None)
        if position is None or key in look.moving:
            return []
        business = await open_business(self.journal.engine, kill.account)
        ours = sum(held["quantity"] for held in business.positions if key_of(held) == key)
        quantity = position.quantity - ours
        # Never past the broker's net: of a position that ours offset, only what the broker shows.
        quantity = min(quantity, position.quantity) if position.quantity > 0 else max(quantity, position.quantity)
        if quantity * position.quantity <= 0 or any(key_of(order) == key for order in business.orders):
            return []
        rows = await foreign.sends_that_count(self.journal.engine, kill.account, kill.kill_id)
        rows = [row for row in rows if key_of(row) == key]
        if any(row["state"] in {foreign.SENDING, foreign.SENT} for row in rows):
            return []  # its own exit, or an earlier switch's, is under way or in doubt: the book tells, and a person where it does not
        if any(_key(row) == key and not row.is_end for row in look.book.rows):
            return [f"an order works in {key[0]} {key[1]}: no exit goes beside it"]
        mine = [row for row in rows if row["kill_id"] == kill.kill_id]
        if len(mine) >= MOST:
            return [f"{quantity:+d} {key[0]} {key[1]}: {MOST} exits did not close it ({mine[-1]['answer']})"]
        return _Wanted(position, abs(quantity), len(mine))

    async def _send(self, kill: KillInput, exit_: _Wanted, leave: Held) -> list[str]:
        position, quantity = exit_.position, exit_.quantity
        side = Side.SELL if position.quantity > 0 else Side.BUY
        wanted = ForeignExit(
            kill.kill_id, kill.account, _name(position), position.product.value, side.value, quantity, exit_.number
        )
        deadline = time.monotonic() + kill.durations.send_deadline
        if not await foreign.claim_foreign(self.journal.engine, wanted, self.proof, kill.durations.send_deadline):
            return [
                f"the exit of {quantity} {wanted.instrument} could not be claimed: released, or another process leads"
            ]
        leave.used = True
        try:
            request = _request(position, side, wanted, deadline)
            broker_order_id = await self.trader.place(replace(request, leaves=leave.turn.leaves))
        except NotPlaced as refusal:
            leave.refused(refusal.code)
            await foreign.note_foreign(self.journal.engine, wanted.tag, foreign.REFUSED, answer=str(refusal))
            return [f"{side} {quantity} {wanted.instrument}: {refusal}"]
        except OutcomeUnknown as doubt:
            await foreign.note_foreign(self.journal.engine, wanted.tag, foreign.SENDING, answer=f"no answer: {doubt}")
            return [
                f"{side} {quantity} {wanted.instrument} was sent and no answer came: look for tag {wanted.tag} in Kite"
            ]
        log.warning("exit of a foreign position sent", tag=wanted.tag, broker_order_id=broker_order_id)
        await foreign.note_foreign(
            self.journal.engine, wanted.tag, foreign.SENT, broker_order_id=broker_order_id, answer="accepted"
        )
        return []


def _busy() -> ApplicationError:
    return again("PacerBusy", "no token of the broker's rate limit became free")


def _lost(kill: KillInput, sends: Sequence[dict[str, Any]]) -> list[str]:
    """Sent long ago, no answer, and the book does not show the tag: sent no more, a person must look."""
    after = timedelta(seconds=kill.durations.absence_after)
    return [
        f"exit {row['side']} {row['quantity']} {row['instrument']} got no answer and is not in the book: look in Kite for tag "
        f"{row['tag']}; it is not sent again"
        for row in sends
        if row["state"] == foreign.SENDING and utc_now() - row["deadline_at"] > after
    ]


def _request(position: BrokerPosition, side: Side, wanted: ForeignExit, deadline: float) -> PlaceRequest:
    return PlaceRequest(
        tag=wanted.tag,
        exchange=position.exchange,
        tradingsymbol=position.tradingsymbol,
        instrument_token=position.instrument_token,
        instrument_type="",
        tick_size=Decimal("0.05"),
        side=side,
        quantity=wanted.quantity,
        order_type=OrderType.MARKET,
        product=position.product,
        validity=Validity.DAY,
        price=None,
        trigger_price=None,
        deadline=deadline,
    )


def _key(row: BrokerPosition | BookRow) -> Key:
    return _name(row), row.product


def _name(row: BrokerPosition | BookRow) -> str:
    return f"{row.exchange}:{row.tradingsymbol}"


def _what(row: BookRow) -> str:
    return f"{row.side} {row.quantity - row.filled_quantity} {_name(row)} {row.product} {row.status}"
