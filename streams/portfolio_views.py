"""From folded positions and marks to what people read: position and PnL views, and snapshots for the log. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from core.events.payloads import PnlSnapshot
from core.storage.redis import EVERYTHING, PnlView, PositionView
from core.trading.pnl import Pnl, add_up, pnl_of, unrealized
from streams.portfolio_fold import Position


@dataclass(frozen=True, slots=True)
class Mark:
    """The last price (rupees) of an instrument and the exchange's time of it (UTC)."""

    price: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class Moment:
    """What all views of one writing share."""

    trading_day: date
    now: datetime
    simulated: bool


def _price(mark: Mark | None) -> Decimal | None:
    return mark.price if mark else None


def position_view(position: Position, mark: Mark | None, moment: Moment) -> PositionView:
    order, state = position.order, position.state
    total = pnl_of(state, _price(mark))
    day = position.days.pnl(moment.trading_day, state, _price(mark))
    known = total.unmarked == 0
    return PositionView(
        instance=order.instance,
        strategy_id=order.strategy_id,
        account=order.account,
        instrument=order.instrument,
        instrument_token=order.instrument_token,
        exchange=order.exchange,
        tradingsymbol=order.tradingsymbol,
        product=order.product,
        quantity=state.quantity,
        average_price=state.average_price,
        last_price=_price(mark),
        marked_at=mark.at if mark else None,
        realized_pnl=state.realized_pnl,
        unrealized_pnl=total.unrealized if known else None,
        gross_pnl=total.gross if known else None,
        charges=state.charges,
        net_pnl=total.net if known else None,
        trading_day=moment.trading_day,
        day_realized_pnl=day.realized,
        day_charges=day.charges,
        day_net_pnl=day.net if known else None,
        fills=len(position.steps),
        updated_at=moment.now,
        simulated=moment.simulated,
    )


def pnl_views(positions: Iterable[tuple[Position, Mark | None]], moment: Moment) -> list[PnlView]:
    """One view an instance, and the broker's total under EVERYTHING."""
    by_instance: dict[str, list[tuple[Position, Mark | None]]] = {}
    for position, mark in positions:
        by_instance.setdefault(position.order.instance, []).append((position, mark))
    views = [_pnl_view(name, rows[0][0].order.strategy_id, rows, moment) for name, rows in sorted(by_instance.items())]
    everything = [row for rows in by_instance.values() for row in rows]
    return [*views, _pnl_view(EVERYTHING, None, everything, moment)]


def _pnl_view(
    instance: str, strategy_id: str | None, rows: list[tuple[Position, Mark | None]], moment: Moment
) -> PnlView:
    total: Pnl = add_up(pnl_of(position.state, _price(mark)) for position, mark in rows)
    day: Pnl = add_up(position.days.pnl(moment.trading_day, position.state, _price(mark)) for position, mark in rows)
    return PnlView(
        instance=instance,
        strategy_id=strategy_id,
        realized_pnl=total.realized,
        unrealized_pnl=total.unrealized,
        gross_pnl=total.gross,
        charges=total.charges,
        net_pnl=total.net,
        trading_day=moment.trading_day,
        day_realized_pnl=day.realized,
        day_gross_pnl=day.gross,
        day_charges=day.charges,
        day_net_pnl=day.net,
        open_positions=sum(position.state.quantity != 0 for position, _ in rows),
        unmarked=total.unmarked,
        as_of=moment.now,
        simulated=moment.simulated,
    )


def snapshot(position: Position, mark: Mark | None, moment: Moment) -> PnlSnapshot:
    """The position marked to market as the log carries it."""
    order, state = position.order, position.state
    day = position.days.pnl(moment.trading_day, state, _price(mark))
    return PnlSnapshot(
        instance=order.instance,
        strategy_id=order.strategy_id,
        instrument=order.instrument,
        instrument_token=order.instrument_token,
        exchange=order.exchange,
        tradingsymbol=order.tradingsymbol,
        product=order.product,
        quantity=state.quantity,
        average_price=state.average_price,
        last_price=_price(mark),
        realized_pnl=state.realized_pnl,
        unrealized_pnl=unrealized(state, _price(mark)),
        charges=state.charges,
        trading_day=moment.trading_day,
        day_realized_pnl=day.realized,
        day_charges=day.charges,
        as_of=moment.now,
        simulated=moment.simulated,
    )
