"""Rules about the order itself: what it is for, its prices, its quantity, its value. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from core.trading.calendar import IST
from core.trading.charges import check_chargeable
from core.trading.risk.facts import Facts, Limits
from core.trading.risk.freeze import freeze_quantity
from core.trading.risk.rule import Binds, Rule
from core.trading.signals import Signal
from core.trading.types import OrderType

_NEEDS_PRICE = frozenset({OrderType.LIMIT, OrderType.SL})
_NEEDS_TRIGGER = frozenset({OrderType.SL, OrderType.SL_M})


class InstrumentListed(Rule):
    """The instrument is not in today's dump under this name and token, or is an index: there is nothing to order."""

    code: ClassVar[str] = "INSTRUMENT"
    binds: ClassVar[Binds] = Binds.BOTH

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.instrument is None:
            return f"{signal.instrument} (token {signal.instrument_token}) is not in today's instruments"
        if not facts.instrument.tradable:
            return f"{signal.instrument} is an index: it cannot be ordered"
        return None


class Chargeable(Rule):
    """No charges are known for this kind of instrument: its PnL could not be told, so it is not entered."""

    code: ClassVar[str] = "CHARGES"
    binds: ClassVar[Binds] = Binds.ENTRIES

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.instrument is None:
            return None
        day = signal.origin_at.astimezone(IST).date()
        return check_chargeable(signal.exchange, facts.instrument.instrument_type, day)


class TickSize(Rule):
    """A price the order type needs is missing, not positive, or not a multiple of the instrument's tick size."""

    code: ClassVar[str] = "TICK_SIZE"
    binds: ClassVar[Binds] = Binds.BOTH

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.instrument is None:
            return None
        tick = facts.instrument.tick_size
        problems = [
            *self._problems("price", signal.price, signal.order_type, signal.order_type in _NEEDS_PRICE, tick),
            *self._problems(
                "trigger price", signal.trigger_price, signal.order_type, signal.order_type in _NEEDS_TRIGGER, tick
            ),
        ]
        return "; ".join(problems) or None

    @staticmethod
    def _problems(name: str, price: Decimal | None, order_type: OrderType, needed: bool, tick: Decimal) -> list[str]:
        if price is None:
            return [f"{order_type} order without a {name}"] if needed else []
        if price <= 0:
            return [f"{name} {price} is not positive"]
        if tick > 0 and price % tick != 0:
            return [f"{name} {price} is not a multiple of the tick size {tick}"]
        return []


class LotSize(Rule):
    """The quantity is not a whole number of lots."""

    code: ClassVar[str] = "LOT_SIZE"
    binds: ClassVar[Binds] = Binds.BOTH

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.instrument is None or signal.quantity % max(facts.instrument.lot_size, 1) == 0:
            return None
        return f"quantity {signal.quantity} is not a multiple of the lot {facts.instrument.lot_size}"


class FreezeQuantity(Rule):
    """The quantity is above the freeze quantity: the most the exchange takes in one order."""

    code: ClassVar[str] = "FREEZE_QUANTITY"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.instrument is None:
            return None
        most = freeze_quantity(facts.instrument)
        if signal.quantity <= most:
            return None
        return f"quantity {signal.quantity} is above the freeze quantity {most} of {signal.instrument}"


class PriceBand(Rule):
    """A limit or trigger price lies further from the last price than the band."""

    code: ClassVar[str] = "PRICE_BAND"
    limit: ClassVar[str] = "strategy.price_band_percent"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        last = facts.last_price
        if last is None or last <= 0:
            return None
        band = limits.strategy.price_band_percent
        problems = [
            f"{name} {price} is {away:.2f} % from the last price {last}, above {band} %"
            for name, price in (("price", signal.price), ("trigger price", signal.trigger_price))
            if price is not None and (away := abs(price - last) / last * 100) > band
        ]
        return "; ".join(problems) or None


class OrderValue(Rule):
    """Quantity times price (the last price where the order has none) is above the strategy's or the account's limit."""

    code: ClassVar[str] = "ORDER_VALUE"
    limit: ClassVar[str] = "strategy.max_order_value, account.max_order_value"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        price = signal.price if signal.price is not None else facts.last_price
        if price is None:
            return None
        value = price * signal.quantity
        most = min(limits.strategy.max_order_value, limits.account.max_order_value)
        return f"value {value:.2f} is above {most}" if value > most else None
