"""The demo that a fresh deployment starts with: it can run, one strategy also at the sandbox, and for real money nothing is on."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from control.plans import Planner
from core.storage.seed import demo_limits, demo_strategies
from core.trading.instruments import Instrument, InstrumentBook
from core.trading.risk import AccountLimits, RiskLimits, parse_limits
from core.trading.types import Exchange, KiteTarget
from sandbox.instruments import build
from strategies import registry
from tests.strategy_world import make_settings

DAY_S = 86_400


def book() -> InstrumentBook:
    """The sandbox's own dump."""
    return InstrumentBook(
        Instrument(
            instrument_token=row.token,
            exchange_token=row.token >> 8,
            tradingsymbol=row.tradingsymbol,
            name=row.name,
            exchange=Exchange(row.exchange),
            segment=row.segment,
            instrument_type=row.kind,
            tick_size=row.tick_size,
            lot_size=row.lot_size,
        )
        for row in build(date(2026, 11, 23))
        if row.exchange == "NSE"
    )


def test_one_demo_trades_on_paper_alone_and_one_at_the_sandbox_too() -> None:
    planner = Planner(make_settings(), registry.known(), book())
    plans, idle = planner.all(demo_strategies(KiteTarget.LOCAL))
    assert [plan.name for plan in plans] == ["momentum-demo@paper", "reversion-demo@paper", "reversion-demo@zerodha"]
    assert idle == []


@pytest.mark.parametrize("target", [KiteTarget.ZERODHA_SANDBOX, KiteTarget.PRODUCTION])
def test_on_any_other_target_they_are_switched_off_and_opted_in_to_nothing_there(target: KiteTarget) -> None:
    for row in demo_strategies(target):
        assert not row.active
        assert target.value not in row.opt_ins.values()


def test_its_bars_are_seconds_long() -> None:
    assert all(row.parameters["bar_s"] < 60 for row in demo_strategies(KiteTarget.LOCAL))


def test_its_limits_never_stop_it() -> None:
    """At most one entry a cooldown, instrument and broker: the day's trades fit, and each one's worth lies below the order's limit."""
    given = {(row["scope"], row["name"]): parse_limits(row["scope"], row["limits"]) for row in demo_limits()}
    of_account = {"paper": 0.0, "zerodha": 0.0}
    for row in demo_strategies(KiteTarget.LOCAL):
        own = given["strategy", row.strategy_id]
        assert isinstance(own, RiskLimits)
        entries = len(row.instruments) * DAY_S / row.parameters["cooldown_s"]
        assert entries < own.max_trades_a_day
        assert len(row.instruments) <= own.max_open_orders
        dearest = max(found.base_paise for found in build(date(2026, 11, 23)) if found.key in row.instruments)
        assert row.parameters["quantity"] * Decimal(dearest) / 100 * 2 < own.max_order_value
        assert row.parameters["quantity"] < own.max_position
        for broker in ("paper", *row.opt_ins):
            of_account[broker] += entries
    for broker, entries in of_account.items():
        account = given["account", broker]
        assert isinstance(account, AccountLimits)
        assert entries < account.max_trades_a_day
