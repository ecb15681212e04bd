"""What the broker holds against what we booked, instrument by instrument, to the unit. Pure: no I/O, no clock.

FOREIGN is what the trader did outside this system: the carry found at first sight of the day, and the trades of orders without our tag.
Drift is what neither explains. Never judges an instrument in which something is moving just now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from core.trading.types import Exchange, Product, Side


@dataclass(frozen=True, slots=True, order=True)
class LineKey:
    """One position at the broker."""

    exchange: Exchange
    tradingsymbol: str
    product: Product

    def __str__(self) -> str:
        return f"{self.exchange}:{self.tradingsymbol}:{self.product}"

    @staticmethod
    def parse(text: str) -> LineKey:
        """The inverse of `str`. Raises ValueError."""
        exchange, rest = text.split(":", 1)
        symbol, product = rest.rsplit(":", 1)
        return LineKey(Exchange(exchange), symbol, Product(product))


@dataclass(frozen=True, slots=True)
class DayTrade:
    """A trade of the present trading day as the broker lists it. `order_id` is None for an order that is not ours."""

    broker_order_id: str
    trade_id: str
    key: LineKey
    side: Side
    quantity: int
    filled_at: datetime
    order_id: UUID | None

    @property
    def signed(self) -> int:
        return self.quantity * self.side.sign


@dataclass(frozen=True, slots=True)
class Held:
    """What we booked in one line: the net of all fills, and what fills of the present trading day make of it. Signed units."""

    quantity: int
    today: int


@dataclass(frozen=True, slots=True)
class Line:
    """One instrument of the comparison, signed units: broker = ours + foreign + drift.

    `delivered` is what of our position was delivered on an earlier day: shares that the broker lists as holdings, not as a position;
    it is not part of `ours`. `drift` is None where nothing could be judged because something moves just now. `uncovered` is how much
    of `ours` the broker's net does not hold any more (sold by somebody else): exits would open the opposite.
    """

    key: LineKey
    broker: int
    ours: int
    foreign: int
    drift: int | None
    delivered: int = 0
    uncovered: int = 0

    @property
    def quiet(self) -> bool:
        """Nothing to tell of."""
        return not (self.broker or self.ours or self.foreign or self.drift or self.delivered) and self.drift is not None


@dataclass(frozen=True, slots=True)
class Once:
    """What one round alone made of a line's opening: believed when a second one agrees, as one answer may be wrong.

    `weak`: the answer listed no position at all. A broker that has lost sight of them answers the same.
    """

    quantity: int
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Assumed:
    """What answers that listed no position at all agreed on: it is judged by, until an answer that lists some says otherwise."""

    quantity: int


Opening = int | Assumed | Once | None
"""What a line held when the trading day began, signed units; None where nothing could be told yet."""

Openings = dict[LineKey, Opening]
"""A line that is missing began as `Comparison.rest` says."""

_FLAT = Held(0, 0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`rest`: the opening of the lines that `openings` does not name. `mended` are lines whose opening was assumed, and wrongly so."""

    lines: tuple[Line, ...]
    openings: Openings = field(default_factory=dict)
    rest: Opening = 0
    mended: tuple[LineKey, ...] = ()


def compare(
    *,
    net: Mapping[LineKey, int],
    trades: Iterable[DayTrade],
    held: Mapping[LineKey, Held],
    openings: Openings | None,
    moving: Collection[LineKey],
    delivers: bool,
    rest: Opening = 0,
) -> Comparison:
    """Broker net − ours − FOREIGN of every line. `openings` is None at the first sight of a trading day; `rest` is the opening of the
    lines it does not name, as the rounds until now made it.

    A line's opening is the broker's net less all trades of the day, so it does not matter when in the day it is seen first; it is taken
    when nothing moves in the line and two rounds in a row agree on it, also on lines that one of them does not list: until then the line
    is not judged. Answers that list no position at all say so only for the time being: the first one that lists some is taken to know
    better, where no trade of the day explains the difference. Afterwards drift is what the net moved without trades, and what trades of
    ours were not booked. A fill of an earlier day that is booked late moves from FOREIGN to ours.

    `delivers`: CNC positions leave the broker's positions overnight and become holdings (kite.trade/docs/connect/v3/portfolio).
    """
    listed: dict[LineKey, int] = defaultdict(int)
    foreign: dict[LineKey, int] = defaultdict(int)
    for trade in trades:
        listed[trade.key] += trade.signed
        if trade.order_id is None:
            foreign[trade.key] += trade.signed
    if openings is None:
        rest = None
    weak = not net
    known: Openings = dict(openings or {})
    lines: list[Line] = []
    mended: list[LineKey] = []
    for key in sorted({*net, *listed, *held, *known, *moving}):
        now = None if key in moving else net.get(key, 0) - listed[key]
        before = known.get(key, rest)
        known[key] = _agreed(before, now, weak)
        if isinstance(before, Assumed) and isinstance(known[key], Once):
            mended.append(key)
        lines.append(
            _line(key, net.get(key, 0), held.get(key, _FLAT), known[key], foreign[key], key in moving, delivers)
        )
    told = tuple(line for line in lines if not line.quiet)
    return Comparison(told, known, _agreed(rest, 0, weak), tuple(mended))


def _agreed(before: Opening, now: int | None, weak: bool) -> Opening:
    """A line's opening as the rounds until now make it; `now` is this round's, None where it says nothing; `weak`: it listed nothing."""
    if isinstance(before, int) or now is None or (weak and isinstance(before, Assumed)):
        return before
    if isinstance(before, Assumed):
        return now if before.quantity == now else Once(now)
    if before is None or before.quantity != now:
        return Once(now, weak)
    return Assumed(now) if weak and before.weak else now


def _line(
    key: LineKey, broker: int, held: Held, opening: Opening, foreign_today: int, moving: bool, delivers: bool
) -> Line:
    carried = held.quantity - held.today
    delivered = carried if delivers and key.product is Product.CNC else 0
    ours = held.quantity - delivered
    if isinstance(opening, Assumed):
        opening = opening.quantity
    if not isinstance(opening, int):
        nothing = isinstance(opening, Once) and opening.quantity == 0 and not (broker or ours or foreign_today)
        return Line(key, broker, ours, foreign_today, 0 if nothing else None, delivered)
    foreign = opening - (carried - delivered) + foreign_today
    drift = None if moving else broker - ours - foreign
    return Line(key, broker, ours, foreign, drift, delivered, 0 if moving else uncovered(broker, ours))


def uncovered(broker: int, ours: int) -> int:
    """How many units of `ours` (signed) the broker's net (signed) does not hold."""
    sign = 1 if ours > 0 else -1
    return max(0, abs(ours) - max(0, broker * sign))


def moving_lines(
    before: Iterable[DayTrade],
    after: Iterable[DayTrade],
    held_before: Mapping[LineKey, Held],
    held_after: Mapping[LineKey, Held],
    lagging: Collection[LineKey],
    young: Collection[LineKey],
) -> set[LineKey]:
    """Lines in which something happened between the reads of one round, so that its figures are not of one moment.

    `before` and `after` are the broker's trades around its positions, `held_*` our bookings around all of it; `lagging` lines have orders
    whose trades do not add up to their filled quantity yet, `young` ones a fresh trade that its order has still to book.
    """
    first, second = set(before), set(after)
    moved = {trade.key for trade in first ^ second}
    moved |= {key for key in {*held_before, *held_after} if held_before.get(key) != held_after.get(key)}
    return moved | set(lagging) | set(young)


# what stands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """Differences seen so far: since when each stands, and which of them were told to a person."""

    since: dict[str, datetime] = field(default_factory=dict)
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Observed:
    watched: Watched
    raised: tuple[str, ...]
    gone: tuple[str, ...]


def observe(
    before: Watched, found: Collection[str], unjudged: Collection[str], *, now: datetime, confirm_s: float
) -> Observed:
    """Which differences to tell of: those seen in an earlier round too, at least `confirm_s` ago (a fill may be in flight); once each.

    Those in `unjudged` stand as they stood: this round says nothing about them.
    """
    since = {name: before.since.get(name, now) for name in found}
    since |= {name: moment for name, moment in before.since.items() if name in unjudged}
    raised = tuple(
        sorted(
            name
            for name in found
            if name in before.since and name not in before.told and (now - since[name]).total_seconds() >= confirm_s
        )
    )
    gone = tuple(sorted(before.told - since.keys()))
    return Observed(Watched(since, (before.told & since.keys()) | set(raised)), raised, gone)
