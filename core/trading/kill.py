"""What a kill switch closes: exits of our own net per (exchange, symbol, product), never past what the broker shows.

Pure: no I/O, no clock. It never plans an order that opens or turns a position, nor one for an instrument that somebody still works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from core.trading.types import Product, Side

Key = tuple[str, Product]
"""A position at the broker: the instrument's name (`NSE:INFY`) and the product."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one instance holds by the journal, in units. `exiting` is what its working exits may still take of it.

    `in_scope`: the kill switch is to close it. `blocked`: why no exit may go yet, in words; empty when one may.
    """

    instance: str
    instrument: str
    instrument_token: int
    product: Product
    quantity: int
    exiting: int = 0
    in_scope: bool = True
    blocked: str = ""

    @property
    def key(self) -> Key:
        return self.instrument, self.product


@dataclass(frozen=True, slots=True)
class Exit:
    """Close so much of one instance's position."""

    held: Held
    side: Side
    quantity: int


@dataclass(frozen=True, slots=True)
class Net:
    """One key: what we hold in the kill's scope, what the broker shows, what is planned now, and why not more.

    `closable`: how many units exits of the scope may take at most, those that already work included.
    """

    key: Key
    ours: int
    at_broker: int
    exiting: int
    exits: tuple[Exit, ...] = ()
    note: str = ""
    closable: int = 0


def plan(held: Iterable[Held], at_broker: Mapping[Key, int]) -> tuple[Net, ...]:
    """The exits to make now, per key that the scope holds anything of.

    The bound is the broker's net, less what strategies out of the scope hold there: closing one strategy must leave theirs. Working exits
    count against it as if none of them had filled yet, so that a fill not booked so far can only make the plan smaller.
    """
    rows = sorted(held, key=lambda one: (one.key, one.instance))
    nets = (_net(key, list(group), at_broker.get(key, 0)) for key, group in groupby(rows, key=lambda one: one.key))
    return tuple(net for net in nets if net is not None)


def _net(key: Key, rows: list[Held], at_broker: int) -> Net | None:
    scoped = [row for row in rows if row.in_scope]
    ours = sum(row.quantity for row in scoped)
    sign = 1 if ours > 0 else -1
    holders = [row for row in scoped if row.quantity * sign > 0]
    exiting = sum(row.exiting for row in holders)
    if ours == 0:
        return Net(key, 0, at_broker, exiting) if any(row.quantity for row in scoped) else None
    closable = max((at_broker - sum(row.quantity for row in rows if not row.in_scope)) * sign, 0)
    left = min(ours * sign, closable) - exiting
    short = ours * sign - closable
    note = f"the broker's net is {short} short of what we hold by our journal" if short > 0 else ""
    blocked = next((row.blocked for row in rows if row.blocked), "")
    if blocked:
        return Net(key, ours, at_broker, exiting, (), blocked, closable)
    exits: list[Exit] = []
    side = Side.SELL if sign > 0 else Side.BUY
    for row in sorted(holders, key=lambda one: (-(abs(one.quantity) - one.exiting), one.instance)):
        quantity = min(abs(row.quantity) - row.exiting, left)
        if quantity > 0:
            exits.append(Exit(row, side, quantity))
            left -= quantity
    return Net(key, ours, at_broker, exiting, tuple(exits), note, closable)
