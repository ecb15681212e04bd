"""The trading day's PnL as curves, from positions minute by minute. Pure: no I/O, no clock.

A position stands as it was last seen until it is seen again; one without a price is counted as unmarked, never as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby

from pydantic import Field

from api.models import Answer
from core.storage.redis import EVERYTHING, PnlView
from core.storage.view_pnl import MinuteRow
from core.trading.pnl import Pnl, add_up
from core.trading.types import Broker


class CurveMark(Answer):
    """What the trading day had made at a moment, rupees: gross = realised + unrealised, net = gross − charges."""

    at: datetime
    broker: Broker
    instance: str = Field(
        description=f"`{EVERYTHING}`: all of the broker's instances together.", examples=["momentum-demo@paper"]
    )
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    gross_pnl: Decimal
    charges: Decimal
    net_pnl: Decimal
    unmarked: int = Field(description="Open positions without a price: they are missing from the sums.")

    @staticmethod
    def of(broker: Broker, instance: str, at: datetime, pnl: Pnl) -> CurveMark:
        return CurveMark(
            at=at,
            broker=broker,
            instance=instance,
            realized_pnl=pnl.realized,
            unrealized_pnl=pnl.unrealized,
            gross_pnl=pnl.gross,
            charges=pnl.charges,
            net_pnl=pnl.net,
            unmarked=pnl.unmarked,
        )


def marks(broker: Broker, rows: Iterable[MinuteRow], step: timedelta) -> Iterator[CurveMark]:
    """One point each `step` in which something was seen, of each instance seen in it and of all together. `rows` come by time."""
    seen: dict[str, dict[tuple[str, str], Pnl]] = {}
    for _, group in groupby(rows, key=lambda row: row.minute.timestamp() // step.total_seconds()):
        moved: dict[str, datetime] = {}
        for row in group:
            seen.setdefault(row.instance, {})[(row.instrument, row.product)] = _pnl(row)
            moved[row.instance] = max(row.as_of, moved.get(row.instance, row.as_of))
        for instance, at in sorted(moved.items()):
            yield CurveMark.of(broker, instance, at, add_up(seen[instance].values()))
        everything = add_up(pnl for positions in seen.values() for pnl in positions.values())
        yield CurveMark.of(broker, EVERYTHING, max(moved.values()), everything)


def _pnl(row: MinuteRow) -> Pnl:
    return Pnl(
        row.realized_pnl, row.unrealized_pnl or Decimal(0), row.charges, unmarked=int(row.unrealized_pnl is None)
    )


def now(broker: Broker, view: PnlView) -> CurveMark:
    """The curve's end: the day as the portfolio last had it."""
    unrealized = view.day_gross_pnl - view.day_realized_pnl
    pnl = Pnl(view.day_realized_pnl, unrealized, view.day_charges, view.unmarked)
    return CurveMark.of(broker, view.instance, view.as_of, pnl)
