"""Flatten, directly: cancels every working order of a Zerodha account and closes every position, with Zerodha and a file alone.

The one exception to the claim in the journal: each send is on disk, under a tag of its own, before it leaves, and never repeated. A send
without an answer is looked up by its tag; until the book shows it, or proves it absent, its position gets no other exit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol, TypeVar

from core import failpoints, logging
from core.brokers.pacer import Held, Pacer
from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, PlaceRequest, Trade
from core.clock import trading_day, utc_now
from core.errors import AlphaPandaError, NotPlaced, OutcomeUnknown, SessionExpired, Transient
from core.flatten_file import FlattenFile, FlattenSend, Outcome
from core.trading.absence import SeenBook, Verdict, judge
from core.trading.durations import OrderDurations
from core.trading.orders import SeenFill
from core.trading.types import OrderType, Product, Side, Validity

READ_EVERY_S = 1.0
ASK_AGAIN_S = 5.0
"""A cancel is asked again after this while the book shows the order working; at the broker it is harmless twice."""

ROUNDS = 5
"""Most exits of one position in one run."""

FLAT_LOOKS = 3
"""Looks, `absence_spacing` apart, that must agree before an account is called flat: one empty answer of the broker proves nothing."""

Key = tuple[str, Product]
T = TypeVar("T")

log = logging.get(__name__)


class FlattenStopped(AlphaPandaError):
    """It cannot go on now. Run it again: nothing is repeated."""


class Account(Protocol):
    """What it asks of Zerodha."""

    profile: BrokerProfile

    async def account(self) -> str: ...
    async def book(self) -> Book: ...
    async def positions(self) -> tuple[BrokerPosition, ...]: ...
    async def trades(self, broker_order_ids: list[str]) -> Mapping[str, tuple[Trade, ...]]: ...
    async def place(self, request: PlaceRequest) -> str: ...
    async def cancel(self, broker_order_id: str, *, variety: str = ...) -> None: ...
    async def left_out(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """The account as it is now. `odd`: orders and positions in words we do not trade in; a person must close those."""

    account: str
    working: tuple[BookRow, ...]
    positions: tuple[BrokerPosition, ...]
    odd: tuple[str, ...]

    @property
    def is_flat(self) -> bool:
        return not self.working and not self.positions


@dataclass(slots=True)
class Flatten:
    """One run. `say` tells a person each thing that was done."""

    trader: Account
    file: FlattenFile
    say: Callable[[str], None]
    durations: OrderDurations = field(default_factory=OrderDurations)
    read_every_s: float = READ_EVERY_S
    _pacer: Pacer = field(init=False)
    _asked: dict[str, float] = field(init=False, default_factory=dict)
    _evidence: dict[str, list[SeenBook]] = field(init=False, default_factory=dict)
    _known: set[str] = field(init=False, default_factory=set)
    """Broker orders seen by any run of this day: a book without one of them is no evidence of anything."""
    _tried: set[Key] = field(init=False, default_factory=set)
    troubles: dict[str, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._pacer = Pacer(self.trader.profile)
        now = utc_now()
        ages = [(now - send.line.at).total_seconds() for send in self.file.sends()]
        self._pacer.preload(ages_s=[age for age in ages if age < 60], today=len(ages))
        self._known = set(self.file.seen())

    async def see(self) -> Seen:
        """The account now; called flat only where FLAT_LOOKS looks in a row say so.

        Raises FlattenStopped when Zerodha does not answer for long, SessionExpired without a session.
        """
        seen, spacing = await self._glance(), self.durations.absence_spacing
        for number in range(2, FLAT_LOOKS + 1):
            if not seen.is_flat:
                break
            self.say(f"it looks flat; look {number} of {FLAT_LOOKS} in {spacing:.0f} s, to be sure")
            await asyncio.sleep(spacing)
            seen = await self._glance()
        return seen

    async def _glance(self) -> Seen:
        account = await self._patiently(self.trader.account)
        book = await self._sound_look()
        positions = await self._patiently(self.trader.positions)
        odd = await self._patiently(self.trader.left_out)
        return Seen(account, tuple(row for row in book.rows if not row.is_end), positions, odd)

    async def run(self) -> Seen:
        """Settle what an earlier run left, cancel, close, and look until the account is flat or nothing more can be done."""
        await self._until(self._answered, self.durations.absence_after * 2 + 60, "the fate of earlier sends")
        for _ in range(ROUNDS):
            await self._cancel_all()
            await self._until(self._settled, self.durations.look_longest, "the exits to end")
            sent = await self._close()
            if sent:
                await self._until(self._settled, self.durations.look_longest, "the exits to end")
            seen = await self.see()
            if seen.is_flat or not (sent or self._open() or self._is_news(seen)):
                return seen
        return await self.see()

    def _is_news(self, seen: Seen) -> bool:
        """It shows what this run has not tried yet: an earlier answer was wrong, or somebody acts beside us."""
        positions = {_key(position) for position in seen.positions}
        return bool(positions - self._tried) or any(row.broker_order_id not in self._asked for row in seen.working)

    # orders --------------------------------------------------------------------------------------------------------

    async def _cancel_all(self) -> None:
        await self._until(self._nothing_works, self.durations.look_longest, "the orders to be cancelled")

    async def _nothing_works(self) -> bool:
        """Ask a cancel of each working row; the book alone says whether it happened."""
        book = await self._sound_look()
        working = [row for row in book.rows if not row.is_end]
        for row in working:
            if time.monotonic() - self._asked.get(row.broker_order_id, float("-inf")) < ASK_AGAIN_S:
                continue
            async with self._leave() as leave:
                leave.used = True
                self._asked[row.broker_order_id] = time.monotonic()
                self.say(f"cancel {told(row)} ({row.broker_order_id})")
                try:
                    await self.trader.cancel(row.broker_order_id, variety=str(row.raw.get("variety") or "regular"))
                except SessionExpired:
                    raise
                except (NotPlaced, OutcomeUnknown) as error:
                    self._trouble(f"cancel of {told(row)} ({row.broker_order_id}): {error}")
        return not working

    # positions -----------------------------------------------------------------------------------------------------

    async def _close(self) -> int:
        """Send one exit a position, unless something of it is still under way. Returns how many left."""
        keys = [_key(position) for position in await self._patiently(self.trader.positions)]
        return sum([await self._close_one(key) for key in keys])

    async def _close_one(self, key: Key) -> bool:
        """Judged by what the account shows when the exit may leave at last: somebody may have closed it meanwhile."""
        async with self._leave() as leave:
            book = await self._sound_look()
            positions = await self._patiently(self.trader.positions)
            position = next((one for one in positions if _key(one) == key), None)
            open_ = next((send for send in self._open() if send.key == key), None)
            busy = any(_key(row) == key and not row.is_end for row in book.rows)
            if position is not None and open_ is None and not busy:
                self._tried.add(key)
                return await self._send(position, leave)
        if position is None:
            self.say(f"{_named(key)}: closed by now, no exit goes")
        else:
            self._tried.add(key)
            why = f"send {open_.line.tag} is {open_.outcome}: no other exit goes" if open_ is not None else ""
            self._trouble(f"{_named(key)}: {why or 'an order still works there: no exit goes beside it'}")
        return False

    async def _send(self, position: BrokerPosition, leave: Held) -> bool:
        """The one place where an exit leaves: its line is on disk, and it is never sent again."""
        side = Side.SELL if position.quantity > 0 else Side.BUY
        deadline = time.monotonic() + self.durations.send_deadline
        await failpoints.reached("flatten.before_line")
        send = self.file.send(
            exchange=position.exchange,
            tradingsymbol=position.tradingsymbol,
            instrument_token=position.instrument_token,
            product=position.product,
            side=side,
            quantity=abs(position.quantity),
            deadline_s=self.durations.send_deadline,
        )
        tag, what = send.line.tag, f"{side} {abs(position.quantity)} {_named(_key(position))}"
        self.say(f"send {what} (tag {tag})")
        await failpoints.reached("flatten.after_line")
        leave.used = True
        try:
            request = replace(_request(position, send, deadline), leaves=leave.turn.leaves)
            broker_order_id = await self.trader.place(request)
        except NotPlaced as refusal:
            leave.refused(refusal.code)
            self.file.outcome(tag, Outcome.REFUSED, said=f"{refusal.code}: {refusal}")
            self._trouble(f"{what}: {refusal}")
            if isinstance(refusal, SessionExpired):
                raise
            return refusal.retryable
        except OutcomeUnknown as doubt:
            self.file.outcome(tag, Outcome.SENDING, said=f"no answer: {doubt}")
            self.say(f"no answer for {tag}: it is looked up in the book")
            return True
        await failpoints.reached("flatten.after_send")
        self.file.outcome(tag, Outcome.SENT, broker_order_id=broker_order_id, said="accepted")
        return True

    # what became of it ---------------------------------------------------------------------------------------------

    def _open(self) -> list[FlattenSend]:
        return [send for send in self.file.sends() if send.is_open]

    async def _settled(self) -> bool:
        """Bring every open send to what the book shows. True when none is open."""
        if not self._open():
            return True
        known = set(self._known)
        book = await self._look()
        for send in self._open():
            row = next((row for row in book.rows if send.line.tag in row.tags), None)
            if row is not None:
                await self._follow(send, row)
            elif send.outcome is Outcome.SENDING:
                self._judge(send, book, known)
        return not self._open()

    async def _answered(self) -> bool:
        """Every send is in the book, or proven absent. One that rests there is cancelled later, like any order."""
        return await self._settled() or all(send.outcome is Outcome.SENT for send in self._open())

    async def _follow(self, send: FlattenSend, row: BookRow) -> None:
        tag = send.line.tag
        if send.outcome is Outcome.SENDING:
            self.file.outcome(
                tag, Outcome.SENT, broker_order_id=row.broker_order_id, said="found in the book by its tag"
            )
            self.say(f"{tag} is at the broker as {row.broker_order_id}")
        if not row.is_end:
            return
        trades: tuple[Trade, ...] = ()
        if row.filled_quantity:
            listed = await self._patiently(lambda: self.trader.trades([row.broker_order_id]))
            trades = listed.get(row.broker_order_id, ())
            if sum(trade.quantity for trade in trades) < row.filled_quantity:
                return  # the trades lag behind the book: the next look tells
        fills = tuple(SeenFill(t.trade_id, t.quantity, t.price, t.filled_at) for t in trades)
        self.file.outcome(
            tag,
            Outcome.ENDED,
            broker_order_id=row.broker_order_id,
            said=row.status_message or "",
            status=row.status,
            filled_quantity=row.filled_quantity,
            trades=fills,
        )
        self.say(
            f"{told(row)}: {row.status}, filled {row.filled_quantity}/{row.quantity} {row.status_message or ''}".rstrip()
        )

    def _judge(self, send: FlattenSend, book: Book, known: set[str]) -> None:
        """Not in the book: one more piece of evidence, by the same rule as any order's absence."""
        line = send.line
        healthy = book.account == line.account and known <= {row.broker_order_id for row in book.rows}
        books = self._evidence.setdefault(line.tag, [])
        healthy = healthy and book.trading_day == line.trading_day
        books.append(SeenBook(book.requested_at, healthy, empty=not book.rows))
        verdict, words = judge(
            books,
            deadline_at=line.deadline_at,
            send_day=line.trading_day,
            today=trading_day(utc_now()),
            durations=self.durations,
        )
        if verdict is Verdict.PROVEN:
            self.file.outcome(line.tag, Outcome.ABSENT, said=f"never reached the broker: {words}")
            self.say(f"{line.tag} never reached the broker: {words}")
        elif verdict is not Verdict.WAITING:
            self._trouble(f"{line.tag}: {words}; look in Kite what became of it")

    async def _look(self) -> Book:
        """The book; every order seen once is expected in the later ones, by later runs too."""
        book = await self._patiently(self.trader.book)
        self.file.saw(sorted({row.broker_order_id for row in book.rows} - self._known))
        self._known |= {row.broker_order_id for row in book.rows}
        return book

    async def _sound_look(self) -> Book:
        """A book with every order known to be in it; asked again while it lacks one. Raises FlattenStopped where it goes on lacking."""
        end = time.monotonic() + self.durations.look_longest
        while True:
            book = await self._look()
            missing = self._known - {row.broker_order_id for row in book.rows}
            if not missing:
                return book
            if time.monotonic() > end:
                raise FlattenStopped(
                    f"Zerodha's order book lacks {len(missing)} orders it has shown today ({', '.join(sorted(missing)[:3])}): it shows "
                    "nothing one may act on. Look in Kite; run it again, nothing is repeated."
                )
            log.info("the book lacks orders it has shown", missing=len(missing))
            await asyncio.sleep(self.read_every_s)

    # how -----------------------------------------------------------------------------------------------------------

    async def _until(self, done: Callable[[], Awaitable[bool]], seconds: float, what: str) -> bool:
        """Look again and again until it is so, or `seconds` are over: then the reason is kept among the troubles."""
        end = time.monotonic() + seconds
        while not await done():
            if time.monotonic() > end:
                self._trouble(f"waited {seconds:.0f} s for {what}")
                return False
            await asyncio.sleep(self.read_every_s)
        return True

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """A read that may be tried again, within a bound."""
        end = time.monotonic() + self.durations.look_longest
        while True:
            try:
                return await read()
            except Transient as error:
                if time.monotonic() > end:
                    raise FlattenStopped(
                        f"Zerodha does not answer ({error}). Run it again: nothing is repeated."
                    ) from error
                log.info("read again", reason=str(error))
            await asyncio.sleep(self.read_every_s)

    @asynccontextmanager
    async def _leave(self) -> AsyncIterator[Held]:
        """Leave to send one command, for which it waits as long as it takes; it counts until that has reached the broker."""
        while True:
            async with self._pacer.held(urgent=True) as leave:
                if leave is not None:
                    yield leave
                    return
            self.say("waiting for the broker's rate limit")

    def _trouble(self, words: str) -> None:
        if words not in self.troubles:
            self.troubles[words] = None
            self.say(f"! {words}")


def _request(position: BrokerPosition, send: FlattenSend, deadline: float) -> PlaceRequest:
    """A MARKET order; the trader adds Zerodha's market protection."""
    return PlaceRequest(
        tag=send.line.tag,
        exchange=position.exchange,
        tradingsymbol=position.tradingsymbol,
        instrument_token=position.instrument_token,
        instrument_type="",
        tick_size=Decimal("0.05"),
        side=send.line.side,
        quantity=send.line.quantity,
        order_type=OrderType.MARKET,
        product=position.product,
        validity=Validity.DAY,
        price=None,
        trigger_price=None,
        deadline=deadline,
    )


def _key(row: BrokerPosition | BookRow) -> Key:
    return f"{row.exchange}:{row.tradingsymbol}", row.product


def _named(key: Key) -> str:
    return f"{key[0]} {key[1]}"


def told(row: BookRow) -> str:
    """`SELL 10 NSE:INFY MIS`."""
    return f"{row.side} {row.quantity} {_named(_key(row))}"
