"""What the account owns: positions from the day's trades and what was carried, holdings, margins. No I/O, no clock.

Kept simple on purpose: MIS takes 20 %, futures 12 %, sold options 12 % of the strike, everything bought for delivery or as an
option its full price. MIS positions left at the end of the day are carried, as no square-off job runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from core.trading.types import Side
from sandbox.instruments import Instrument
from sandbox.orders import Order, OrderRequest
from sandbox.prices import Market
from sandbox.wire import number

MarketOf = Callable[[int], Market]


@dataclass(slots=True)
class Leg:
    """One position: (instrument, product). Quantities in units, values in paise × units."""

    token: int
    exchange: str
    tradingsymbol: str
    product: str
    carried: int = 0
    carried_price: str = "0"
    bought: int = 0
    bought_value: int = 0
    sold: int = 0
    sold_value: int = 0

    @property
    def net(self) -> int:
        return self.carried + self.bought - self.sold

    @property
    def carried_value(self) -> Decimal:
        return Decimal(self.carried_price) * 100 * abs(self.carried)

    def buys(self) -> tuple[int, Decimal]:
        """Quantity and value in paise bought, carried longs included."""
        long = self.carried > 0
        return self.bought + max(self.carried, 0), self.bought_value + (self.carried_value if long else Decimal(0))

    def sells(self) -> tuple[int, Decimal]:
        short = self.carried < 0
        return self.sold + max(-self.carried, 0), self.sold_value + (self.carried_value if short else Decimal(0))

    def average(self) -> Decimal:
        """Rupees a unit of the side that is open, 0 when flat."""
        if self.net == 0:
            return Decimal(0)
        quantity, value = self.buys() if self.net > 0 else self.sells()
        return value / quantity / 100

    def realised(self) -> Decimal:
        """Rupees made by what is closed again."""
        return (self.sells()[1] - self.buys()[1]) / 100 + self.net * self.average()


@dataclass(slots=True)
class Holding:
    """Delivered shares: settled `quantity`, yesterday's `t1_quantity`, and what today's sales took."""

    token: int
    exchange: str
    tradingsymbol: str
    average_price: str
    quantity: int = 0
    t1_quantity: int = 0
    used_quantity: int = 0

    @property
    def free(self) -> int:
        return self.quantity + self.t1_quantity - self.used_quantity


class Portfolio:
    """The account's positions, holdings and cash, folded from trades."""

    def __init__(self, market: MarketOf, cash: Decimal) -> None:
        self._market = market
        self.opening_balance = cash
        self.legs: dict[tuple[int, str], Leg] = {}
        self.holdings: dict[int, Holding] = {}
        self.blocked: dict[str, Decimal] = {}
        self._blocked_total = Decimal(0)

    def apply(self, request: OrderRequest, quantity: int, paise: int) -> None:
        """Book one fill at `paise` a unit."""
        key = (request.token, request.product)
        leg = self.legs.get(key)
        if leg is None:
            leg = self.legs[key] = Leg(request.token, request.exchange, request.tradingsymbol, request.product)
        if request.side is Side.BUY:
            leg.bought += quantity
            leg.bought_value += quantity * paise
            return
        leg.sold += quantity
        leg.sold_value += quantity * paise
        holding = self.holdings.get(request.token)
        if request.product == "CNC" and holding is not None:
            holding.used_quantity = min(max(-leg.net, 0), holding.quantity + holding.t1_quantity)

    def sellable(self, token: int) -> int:
        """Units a CNC sale may take: free holdings and what was bought for delivery today."""
        holding = self.holdings.get(token)
        held = holding.quantity + holding.t1_quantity if holding else 0
        leg = self.legs.get((token, "CNC"))
        return held + (leg.net if leg else 0)

    def required(self, request: OrderRequest, quantity: int, paise: int) -> Decimal:
        """Margin in rupees for opening `quantity`; what only closes needs none."""
        leg = self.legs.get((request.token, request.product))
        closing = max(0, -(leg.net if leg else 0) * request.side.sign)
        opening = max(0, quantity - closing)
        instrument = self._market(request.token).instrument
        return opening * _unit_margin(instrument, request.product, request.side, Decimal(paise) / 100)

    def block(self, order: Order) -> None:
        """Hold the margin of what is still to fill; an ended order frees it."""
        old = self.blocked.pop(order.order_id, Decimal(0))
        new = Decimal(0)
        if not order.status.is_end:
            new = self.required(order.request, order.pending, order.terms.price)
        if new:
            self.blocked[order.order_id] = new
        self._blocked_total += new - old

    def debits(self) -> Decimal:
        return self._blocked_total + self._positions_margin() - self._realised()

    def available(self) -> Decimal:
        return self.opening_balance - self.debits()

    def roll(self, alive: Callable[[int], bool]) -> None:
        """End the day: delivery becomes holdings, open positions are carried, expired contracts are settled."""
        self.opening_balance = round(self.opening_balance + self._realised() - self._delivery_cost(), 2)
        for holding in list(self.holdings.values()):
            holding.quantity += holding.t1_quantity - holding.used_quantity
            holding.t1_quantity = holding.used_quantity = 0
            if holding.quantity <= 0:
                del self.holdings[holding.token]
        carried: dict[tuple[int, str], Leg] = {}
        for key, leg in self.legs.items():
            if leg.product == "CNC":
                self._deliver(leg)
            elif leg.net and alive(leg.token):
                price = str(round(leg.average(), 6))
                carried[key] = Leg(leg.token, leg.exchange, leg.tradingsymbol, leg.product, leg.net, price)
        self.legs = carried
        self.blocked.clear()
        self._blocked_total = Decimal(0)

    def state(self) -> dict[str, Any]:
        """What is carried into the day; the day's own trades are folded again from the store."""
        return {
            "opening_balance": str(self.opening_balance),
            "legs": [asdict(leg) for leg in self.legs.values()],
            "holdings": [asdict(holding) for holding in self.holdings.values()],
        }

    def opening_state(self) -> dict[str, Any]:
        """What was carried into today, without what was traded since."""
        state = self.state()
        today = {"bought": 0, "bought_value": 0, "sold": 0, "sold_value": 0}
        state["legs"] = [{**leg, **today} for leg in state["legs"] if leg["carried"]]
        state["holdings"] = [{**holding, "used_quantity": 0} for holding in state["holdings"]]
        return state

    def carry(self, instrument: Instrument, product: str, quantity: int, paise: int) -> None:
        """Add `quantity` units (signed) at `paise` to what was carried into today; the price is the newest one's."""
        key = (instrument.token, product)
        leg = self.legs.get(key)
        if leg is None:
            leg = self.legs[key] = Leg(instrument.token, instrument.exchange, instrument.tradingsymbol, product)
        leg.carried += quantity
        leg.carried_price = str(Decimal(paise) / 100)

    def restore(self, state: dict[str, Any]) -> None:
        self.opening_balance = Decimal(state["opening_balance"])
        self.legs = {(leg["token"], leg["product"]): Leg(**leg) for leg in state["legs"]}
        self.holdings = {row["token"]: Holding(**row) for row in state["holdings"]}

    # What the REST routes show --------------------------------------------------------------------------------

    def positions(self) -> dict[str, Any]:
        legs = self.legs.values()
        return {
            "net": [self._position(leg) for leg in legs],
            "day": [self._position(_only_today(leg)) for leg in legs if leg.bought or leg.sold],
        }

    def holding_rows(self, today: date) -> list[dict[str, Any]]:
        return [self._holding_row(holding, today) for holding in self.holdings.values()]

    def margins(self) -> dict[str, Any]:
        cash, debits = self.opening_balance, self.debits()
        equity = _segment(cash, cash - debits, debits, -self._realised() if self._realised() < 0 else Decimal(0))
        return {"equity": equity, "commodity": _segment(Decimal(0), Decimal(0), Decimal(0), Decimal(0))}

    def _position(self, leg: Leg) -> dict[str, Any]:
        market = self._market(leg.token)
        last, close = Decimal(market.last) / 100, Decimal(market.close) / 100
        bought, bought_paise = leg.buys()
        sold, sold_paise = leg.sells()
        bought_value, sold_value = bought_paise / 100, sold_paise / 100
        buy_m2m = Decimal(leg.bought_value) / 100 + max(leg.carried, 0) * close
        sell_m2m = Decimal(leg.sold_value) / 100 + max(-leg.carried, 0) * close
        pnl = sold_value - bought_value + leg.net * last
        figures: dict[str, Decimal | int] = {
            "quantity": leg.net,
            "overnight_quantity": leg.carried,
            "multiplier": 1,
            "average_price": leg.average(),
            "close_price": close if leg.carried else 0,
            "last_price": last,
            "value": sold_value - bought_value,
            "pnl": pnl,
            "m2m": sell_m2m - buy_m2m + leg.net * last,
            "unrealised": pnl,
            "realised": 0,
            "buy_quantity": bought,
            "buy_price": bought_value / bought if bought else 0,
            "buy_value": bought_value,
            "buy_m2m": buy_m2m,
            "sell_quantity": sold,
            "sell_price": sold_value / sold if sold else 0,
            "sell_value": sold_value,
            "sell_m2m": sell_m2m,
            "day_buy_quantity": leg.bought,
            "day_buy_price": Decimal(leg.bought_value) / leg.bought / 100 if leg.bought else 0,
            "day_buy_value": Decimal(leg.bought_value) / 100,
            "day_sell_quantity": leg.sold,
            "day_sell_price": Decimal(leg.sold_value) / leg.sold / 100 if leg.sold else 0,
            "day_sell_value": Decimal(leg.sold_value) / 100,
        }
        head = {"tradingsymbol": leg.tradingsymbol, "exchange": leg.exchange, "instrument_token": leg.token}
        return {**head, "product": leg.product, **{name: _figure(value) for name, value in figures.items()}}

    def _holding_row(self, holding: Holding, today: date) -> dict[str, Any]:
        market = self._market(holding.token)
        last, close, average = Decimal(market.last) / 100, Decimal(market.close) / 100, Decimal(holding.average_price)
        total = holding.quantity + holding.t1_quantity
        return {
            "tradingsymbol": holding.tradingsymbol,
            "exchange": holding.exchange,
            "instrument_token": holding.token,
            "isin": f"INE{holding.token >> 8:06d}010"[:12],
            "product": "CNC",
            "price": 0,
            "quantity": holding.quantity,
            "used_quantity": holding.used_quantity,
            "t1_quantity": holding.t1_quantity,
            "realised_quantity": holding.quantity,
            "authorised_quantity": 0,
            "authorised_date": f"{today} 00:00:00",
            "authorisation": {},
            "opening_quantity": total,
            "short_quantity": 0,
            "collateral_quantity": 0,
            "collateral_type": "",
            "discrepancy": False,
            "average_price": _figure(average),
            "last_price": _figure(last),
            "close_price": _figure(close),
            "pnl": _figure((last - average) * total),
            "day_change": _figure(last - close),
            "day_change_percentage": _figure((last - close) * 100 / close),
            "mtf": {"quantity": 0, "used_quantity": 0, "average_price": 0, "value": 0, "initial_margin": 0},
        }

    def _deliver(self, leg: Leg) -> None:
        if leg.net <= 0:
            return
        holding = self.holdings.get(leg.token)
        if holding is None:
            holding = self.holdings[leg.token] = Holding(leg.token, leg.exchange, leg.tradingsymbol, "0")
        had = holding.quantity
        cost = Decimal(holding.average_price) * had + leg.average() * leg.net
        holding.average_price = str(round(cost / (had + leg.net), 6))
        holding.t1_quantity = leg.net

    def _positions_margin(self) -> Decimal:
        total = Decimal(0)
        for leg in self.legs.values():
            if leg.net == 0 or (leg.product == "CNC" and leg.net < 0):
                continue
            side = Side.BUY if leg.net > 0 else Side.SELL
            total += abs(leg.net) * _unit_margin(self._market(leg.token).instrument, leg.product, side, leg.average())
        return total

    def _realised(self) -> Decimal:
        """Cash that closing brought today; the sale of a holding brings its whole price."""
        total = Decimal(0)
        for leg in self.legs.values():
            if leg.product == "CNC" and leg.net < 0:
                total += Decimal(leg.sold_value - leg.bought_value) / 100
            else:
                total += leg.realised()
        return total

    def _delivery_cost(self) -> Decimal:
        legs = [leg for leg in self.legs.values() if leg.product == "CNC" and leg.net > 0]
        return sum((leg.net * leg.average() for leg in legs), Decimal(0))


def _only_today(leg: Leg) -> Leg:
    return Leg(
        leg.token, leg.exchange, leg.tradingsymbol, leg.product,
        bought=leg.bought, bought_value=leg.bought_value, sold=leg.sold, sold_value=leg.sold_value,
    )  # fmt: skip


def _unit_margin(instrument: Instrument, product: str, side: Side, price: Decimal) -> Decimal:
    if instrument.is_option:
        return price if side is Side.BUY else instrument.strike * Decimal("0.12")
    if instrument.kind == "FUT":
        return price * Decimal("0.12")
    if product == "CNC":
        return price if side is Side.BUY else Decimal(0)
    return price * Decimal("0.2")


def _figure(value: Decimal | int) -> int | float:
    return number(round(Decimal(value), 6))


def _segment(cash: Decimal, net: Decimal, debits: Decimal, lost: Decimal) -> dict[str, Any]:
    zero_available = ("adhoc_margin", "collateral", "intraday_payin")
    available: dict[str, Any] = dict.fromkeys(zero_available, 0)
    available |= {"cash": _figure(cash), "opening_balance": _figure(cash), "live_balance": _figure(net)}
    names: Iterable[str] = (
        "exposure", "m2m_unrealised", "option_premium", "payout", "span", "holding_sales", "turnover",
        "liquid_collateral", "stock_collateral", "delivery",
    )  # fmt: skip
    utilised: dict[str, Any] = {"debits": _figure(debits), "m2m_realised": _figure(lost), **dict.fromkeys(names, 0)}
    return {"enabled": True, "net": _figure(net), "available": available, "utilised": utilised}
