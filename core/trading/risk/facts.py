"""What a decision is made from: everything the rules look at, read in one moment. Frozen data, no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from core.trading.instruments import Instrument
from core.trading.risk.limits import AccountLimits, RiskLimits


@dataclass(frozen=True, slots=True)
class DayPnl:
    """Rupees of one trading day. `unrealized` marks whole open positions from their average price.

    `unmarked` names held instruments without a price: while there is one, the day's loss cannot be judged.
    """

    realized: Decimal = Decimal(0)
    unrealized: Decimal = Decimal(0)
    charges: Decimal = Decimal(0)
    unmarked: tuple[str, ...] = ()

    @property
    def net(self) -> Decimal:
        return self.realized + self.unrealized - self.charges


@dataclass(frozen=True, slots=True)
class Facts:
    """The world as one signal meets it. Quantities in units, prices in rupees, ages in seconds.

    `instrument` is None when today's dump does not list the signal's name under the signal's token.
    `position` is what the instance holds in the signal's instrument and product (negative: short); `working` what its
    working orders of the signal's side there may still fill.
    `last_entry_gap_s` is how far apart this signal and the instance's latest accepted entry of the same side and
    instrument began, None when there is none near; other legs of the same slot do not count.
    `kill` is the reason of an engaged kill flag. `opt_in` is the target the strategy opted in to on this broker,
    `target` where this broker's orders really go; a broker that needs no opt-in has both alike.
    """

    instrument: Instrument | None
    last_price: Decimal | None
    tick_age_s: float | None
    phase: str
    session_open: bool
    strategy_active: bool
    target: str
    opt_in: str | None
    kill: str | None = None
    unknown_orders: int = 0
    position: int = 0
    working: int = 0
    open_orders: int = 0
    account_open_orders: int = 0
    trades_today: int = 0
    account_trades_today: int = 0
    last_entry_gap_s: float | None = None
    day: DayPnl = field(default_factory=DayPnl)
    account_day: DayPnl = field(default_factory=DayPnl)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits one signal is held to: its strategy's and its account's."""

    strategy: RiskLimits = field(default_factory=RiskLimits)
    account: AccountLimits = field(default_factory=AccountLimits)
