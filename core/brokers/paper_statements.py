"""The paper trader's SQL: each command is one statement that commits by itself and wakes the exchange.

Pure: builds statements, runs none.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Date,
    DateTime,
    Integer,
    Select,
    Text,
    any_,
    bindparam,
    case,
    exists,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from core.brokers import paper_rows as rows
from core.storage.models import MONEY, ExchangeOrderRow, ExchangeTradeRow
from core.storage.statements import Statement
from core.trading.types import OrderType, Side

CHANNEL = "paper_exchange"
"""NOTIFY channel that wakes the exchange; the payload is the broker order id."""

_order, _trade = ExchangeOrderRow, ExchangeTradeRow

_GIVEN: dict[str, Any] = {
    "broker_order_id": Text,
    "tag": Text,
    "trading_day": Date,
    "exchange": Text,
    "tradingsymbol": Text,
    "instrument_token": BigInteger,
    "instrument_type": Text,
    "tick_size": MONEY,
    "side": Text,
    "order_type": Text,
    "product": Text,
    "validity": Text,
    "quantity": Integer,
    "price": MONEY,
    "trigger_price": MONEY,
    "market_protection": MONEY,
    "status": Text,
    "accepted_at": DateTime(timezone=True),
}


def _place() -> Select[Any]:
    """Book the order unless its tag is booked already; wake the exchange if it is new."""
    values: dict[str, Any] = {name: bindparam(name, type_=kind) for name, kind in _GIVEN.items()}
    booked = insert(_order).values(**values, updated_at=func.clock_timestamp())
    new = booked.on_conflict_do_nothing().returning(_order.broker_order_id).cte("new")  # tag and id go together
    return select(new.c.broker_order_id, func.pg_notify(CHANNEL, new.c.broker_order_id))


def _changed(change: Any) -> Select[Any]:
    """Whether the change took (and then wake the exchange), and whether the order is there at all."""
    hit = change.returning(_order.broker_order_id).cte("hit")
    there = exists().where(_order.broker_order_id == bindparam("id", type_=Text))
    count = select(func.count(hit.c.broker_order_id)).scalar_subquery()
    notified = select(func.pg_notify(CHANNEL, hit.c.broker_order_id)).select_from(hit).scalar_subquery()
    return select(count.label("hit"), notified.label("notified"), there.label("there"))


def _working() -> Any:
    return update(_order).where(_order.broker_order_id == bindparam("id", type_=Text), ~_order.done)


def _cancel() -> Select[Any]:
    return _changed(_working().values(cancel_requested=True, updated_at=func.clock_timestamp()))


def _modify() -> Select[Any]:
    """What is None stays. A changed order counts as accepted anew: no tick from before the change may fill it."""
    quantity, price, trigger, kind = (
        bindparam(f"new_{name}", type_=type_)
        for name, type_ in (("quantity", Integer), ("price", MONEY), ("trigger_price", MONEY), ("order_type", Text))
    )
    stops = or_(kind == OrderType.SL.value, kind == OrderType.SL_M.value)
    protected = or_(kind == OrderType.MARKET.value, kind == OrderType.SL_M.value)
    change = _working().where(or_(quantity.is_(None), _order.filled_quantity < quantity))
    return _changed(
        change.values(
            quantity=func.coalesce(quantity, _order.quantity),
            price=case((protected, price), else_=func.coalesce(price, _order.price)),
            trigger_price=func.coalesce(trigger, _order.trigger_price),
            order_type=func.coalesce(kind, _order.order_type),
            market_protection=case(
                (kind.is_(None), _order.market_protection),
                (protected, rows.AUTO_PROTECTION),
                else_=null(),
            ),
            status=case((kind.is_(None), _order.status), (stops, rows.TRIGGER_PENDING), else_=rows.OPEN),
            triggered=case((stops, False), else_=_order.triggered),
            modifications=_order.modifications + 1,
            accepted_at=bindparam("now", type_=DateTime(timezone=True)),
            updated_at=func.clock_timestamp(),
        )
    )


def _among(column: Any) -> Any:
    return column == any_(bindparam("ids", type_=ARRAY(Text)))


def _trades() -> Any:
    """Trades with their order's instrument, side and product, in the order they happened."""
    columns = (_order.exchange, _order.tradingsymbol, _order.instrument_token, _order.side, _order.product)
    joined = select(_trade, *columns).join(_order, _order.broker_order_id == _trade.broker_order_id)
    return joined.order_by(_trade.filled_at, _trade.trade_id)


def _trades_of_open_positions() -> Select[Any]:
    """Every trade of each (instrument, product) that does not net to zero."""
    signed = case((_order.side == Side.BUY.value, _trade.quantity), else_=-_trade.quantity)
    net = func.sum(signed).over(partition_by=(_order.instrument_token, _order.product)).label("net")
    every = _trades().add_columns(net).order_by(None).subquery()
    return select(every).where(every.c.net != 0).order_by(every.c.filled_at, every.c.trade_id)


PLACE = Statement(_place())
MODIFY = Statement(_modify())
CANCEL = Statement(_cancel())
BOOK = Statement(select(_order).where(_order.trading_day == bindparam("day", type_=Date)))
ORDERS = Statement(select(_order).where(_among(_order.broker_order_id)))
TRADES = Statement(_trades().where(_among(_trade.broker_order_id)))
TRADES_OF_OPEN_POSITIONS = Statement(_trades_of_open_positions())
