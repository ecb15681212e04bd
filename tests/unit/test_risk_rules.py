"""Each rule as a table: what it meets, and whether it denies. The builders make a world in which everything passes."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.instruments import INDICES_SEGMENT, Instrument
from core.trading.risk import RULES, AccountLimits, DayPnl, Facts, Limits, RiskLimits, evaluate, parse_limits
from core.trading.risk.document import PAGE, page
from core.trading.risk.freeze import freeze_quantity
from core.trading.risk.rule import Binds
from core.trading.signals import Signal
from core.trading.types import Exchange, Intent, OrderType, Product, Side, Validity

D = Decimal


def make_instrument(**changes: Any) -> Instrument:
    fields: dict[str, Any] = {
        "instrument_token": 408065,
        "exchange_token": 1594,
        "tradingsymbol": "INFY",
        "name": "INFOSYS",
        "exchange": Exchange.NSE,
        "segment": "NSE",
        "instrument_type": "EQ",
        "tick_size": D("0.05"),
        "lot_size": 1,
    }
    return Instrument(**(fields | changes))


NIFTY_FUTURE = make_instrument(
    instrument_token=12345602,
    exchange_token=48225,
    tradingsymbol="NIFTY26DECFUT",
    name="NIFTY",
    exchange=Exchange.NFO,
    segment="NFO-FUT",
    instrument_type="FUT",
    lot_size=75,
    expiry=date(2026, 12, 29),
)


def make_signal(**changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "signal_id": UUID(int=1),
        "strategy_id": "momentum",
        "instance": "momentum@paper",
        "strategy_version": 1,
        "instrument": "NSE:INFY",
        "instrument_token": 408065,
        "exchange": Exchange.NSE,
        "tradingsymbol": "INFY",
        "side": Side.BUY,
        "intent": Intent.ENTRY,
        "quantity": 50,
        "order_type": OrderType.MARKET,
        "product": Product.MIS,
        "validity": Validity.DAY,
        "slot": "2026-11-23T04:00:00+00:00",
        "origin_at": datetime(2026, 11, 23, 4, 0, tzinfo=UTC),
        "age_limit_s": 5.0,
    }
    return Signal(**(fields | changes))


def make_facts(**changes: Any) -> Facts:
    fields: dict[str, Any] = {
        "instrument": make_instrument(),
        "last_price": D("1500"),
        "tick_age_s": 0.2,
        "phase": "OPEN",
        "session_open": True,
        "strategy_active": True,
        "target": "paper",
        "opt_in": "paper",
    }
    return Facts(**(fields | changes))


def denied(signal: Signal, facts: Facts, limits: Limits | None = None) -> set[str]:
    return {denial.code for denial in evaluate(signal, facts, limits or Limits()).denials}


def strategy(**changes: Any) -> Limits:
    return Limits(strategy=RiskLimits(**changes))


def account(**changes: Any) -> Limits:
    return Limits(account=AccountLimits(**changes))


LIMIT = {"order_type": OrderType.LIMIT}
SL = {"order_type": OrderType.SL}
SL_M = {"order_type": OrderType.SL_M}
LOST = DayPnl(realized=D(-3000), unrealized=D(-1900), charges=D(100))
LOST_LESS = DayPnl(realized=D(-3000), unrealized=D(-1900), charges=D("99.99"))

TABLE: list[tuple[str, str, dict[str, Any], dict[str, Any], Limits, bool]] = [
    # code, case, the signal, the facts, the limits, denied?
    ("INSTRUMENT", "listed", {}, {}, Limits(), False),
    ("INSTRUMENT", "not listed", {}, {"instrument": None}, Limits(), True),
    ("INSTRUMENT", "an index", {}, {"instrument": make_instrument(segment=INDICES_SEGMENT)}, Limits(), True),
    ("CHARGES", "a kind with known rates", {}, {}, Limits(), False),
    ("CHARGES", "no rates known", {"exchange": Exchange.MCX}, {}, Limits(), True),
    ("TICK_SIZE", "market order", {}, {}, Limits(), False),
    ("TICK_SIZE", "on the tick", {**LIMIT, "price": D("1500.05")}, {}, Limits(), False),
    ("TICK_SIZE", "off the tick", {**LIMIT, "price": D("1500.03")}, {}, Limits(), True),
    ("TICK_SIZE", "limit without a price", LIMIT, {}, Limits(), True),
    ("TICK_SIZE", "zero price", {**LIMIT, "price": D(0)}, {}, Limits(), True),
    ("TICK_SIZE", "SL needs both", {**SL, "price": D("1500")}, {}, Limits(), True),
    ("TICK_SIZE", "SL with both", {**SL, "price": D("1501"), "trigger_price": D("1500")}, {}, Limits(), False),
    ("TICK_SIZE", "SL-M trigger off the tick", {**SL_M, "trigger_price": D("1499.98")}, {}, Limits(), True),
    ("TICK_SIZE", "SL-M trigger on the tick", {**SL_M, "trigger_price": D("1499.95")}, {}, Limits(), False),
    ("LOT_SIZE", "one lot", {"quantity": 75}, {"instrument": NIFTY_FUTURE}, Limits(), False),
    ("LOT_SIZE", "a lot and a bit", {"quantity": 80}, {"instrument": NIFTY_FUTURE}, Limits(), True),
    ("FREEZE_QUANTITY", "at it", {"quantity": 1800}, {"instrument": NIFTY_FUTURE}, Limits(), False),
    ("FREEZE_QUANTITY", "a lot above", {"quantity": 1875}, {"instrument": NIFTY_FUTURE}, Limits(), True),
    ("PRICE_BAND", "at the band", {**LIMIT, "price": D("1545")}, {}, Limits(), False),
    ("PRICE_BAND", "above", {**LIMIT, "price": D("1545.05")}, {}, Limits(), True),
    ("PRICE_BAND", "below", {**LIMIT, "price": D("1454.95")}, {}, Limits(), True),
    ("PRICE_BAND", "far trigger", {**SL_M, "trigger_price": D("1600")}, {}, Limits(), True),
    ("PRICE_BAND", "market order", {}, {}, Limits(), False),
    ("ORDER_VALUE", "at the limit", {"quantity": 50}, {}, strategy(max_order_value=75_000), False),
    ("ORDER_VALUE", "last price, above", {"quantity": 51}, {}, strategy(max_order_value=75_000), True),
    ("ORDER_VALUE", "own price, above", {**LIMIT, "price": D("1500.05")}, {}, strategy(max_order_value=75_000), True),
    ("ORDER_VALUE", "the account's limit", {"quantity": 51}, {}, account(max_order_value=75_000), True),
    ("SESSION_CLOSED", "open", {}, {}, Limits(), False),
    ("SESSION_CLOSED", "pre-open", {}, {"phase": "PRE_OPEN", "session_open": False}, Limits(), True),
    ("STALE_TICK", "at the age", {}, {"tick_age_s": 5.0}, Limits(), False),
    ("STALE_TICK", "too old", {}, {"tick_age_s": 5.1}, Limits(), True),
    ("STALE_TICK", "none", {}, {"last_price": None, "tick_age_s": None}, Limits(), True),
    ("KILL", "released", {}, {}, Limits(), False),
    ("KILL", "engaged", {}, {"kill": "drill"}, Limits(), True),
    ("STRATEGY_INACTIVE", "active", {}, {}, Limits(), False),
    ("STRATEGY_INACTIVE", "inactive", {}, {"strategy_active": False}, Limits(), True),
    ("OPT_IN", "names our target", {}, {"target": "production", "opt_in": "production"}, Limits(), False),
    ("OPT_IN", "names another", {}, {"target": "production", "opt_in": "local"}, Limits(), True),
    ("OPT_IN", "none", {}, {"target": "local", "opt_in": None}, Limits(), True),
    ("UNKNOWN_ORDER", "none", {}, {}, Limits(), False),
    ("UNKNOWN_ORDER", "one", {}, {"unknown_orders": 1}, Limits(), True),
    ("POSITION_LIMIT", "room left", {}, {"position": 300, "working": 150}, Limits(), False),
    ("POSITION_LIMIT", "one above", {}, {"position": 301, "working": 150}, Limits(), True),
    ("POSITION_LIMIT", "short side", {"side": Side.SELL}, {"position": -451}, Limits(), True),
    ("POSITION_LIMIT", "against what is held", {"side": Side.SELL}, {"position": 500}, Limits(), False),
    (
        "POSITION_LIMIT",
        "freeze quantity caps it",
        {"quantity": 75},
        {"instrument": NIFTY_FUTURE, "position": 1800},
        strategy(max_position=100_000),
        True,
    ),
    ("OPEN_ORDERS", "room for one", {}, {"open_orders": 4, "account_open_orders": 49}, Limits(), False),
    ("OPEN_ORDERS", "the instance is full", {}, {"open_orders": 5}, Limits(), True),
    ("OPEN_ORDERS", "the account is full", {}, {"account_open_orders": 50}, Limits(), True),
    ("TRADES_A_DAY", "one left", {}, {"trades_today": 99, "account_trades_today": 999}, Limits(), False),
    ("TRADES_A_DAY", "the instance's are done", {}, {"trades_today": 100}, Limits(), True),
    ("TRADES_A_DAY", "the account's are done", {}, {"account_trades_today": 1000}, Limits(), True),
    ("DAY_LOSS", "a paisa left", {}, {"day": LOST_LESS}, Limits(), False),
    ("DAY_LOSS", "lost with charges", {}, {"day": LOST}, Limits(), True),
    ("DAY_LOSS", "the account's loss", {}, {"account_day": LOST}, account(max_day_loss=5000), True),
    ("DAY_LOSS", "a profit", {}, {"day": DayPnl(realized=D(99_999))}, Limits(), False),
    ("DAY_LOSS", "cannot be judged", {}, {"day": DayPnl(unmarked=("NSE:TCS",))}, Limits(), True),
    ("DUPLICATE", "none near", {}, {}, Limits(), False),
    ("DUPLICATE", "within the cooldown", {}, {"last_entry_gap_s": 0.999}, Limits(), True),
    ("DUPLICATE", "just past it", {}, {"last_entry_gap_s": 1.0}, Limits(), False),
    ("DUPLICATE", "no cooldown", {}, {"last_entry_gap_s": 0.0}, strategy(cooldown_s=0), False),
]


@pytest.mark.parametrize(
    ("code", "signal", "facts", "limits", "expected"),
    [pytest.param(row[0], *row[2:], id=f"{row[0]}: {row[1]}") for row in TABLE],
)
def test_a_rule_denies_what_its_table_says(
    code: str, signal: dict[str, Any], facts: dict[str, Any], limits: Limits, expected: bool
) -> None:
    assert (code in denied(make_signal(**signal), make_facts(**facts), limits)) is expected


def test_a_plain_signal_in_a_calm_world_passes_every_rule() -> None:
    assert denied(make_signal(), make_facts()) == set()


def test_every_rule_is_in_the_table_both_ways() -> None:
    seen = {(row[0], row[5]) for row in TABLE}
    assert seen == {(rule.code, outcome) for rule in RULES for outcome in (True, False)}


def test_all_failing_rules_are_reported_with_what_they_saw() -> None:
    facts = make_facts(kill="drill", unknown_orders=2, tick_age_s=9.0)
    decision = evaluate(make_signal(), facts, Limits())
    assert [denial.code for denial in decision.denials] == ["KILL", "UNKNOWN_ORDER", "STALE_TICK"]
    assert "drill" in decision.denials[0].message
    assert "9.0 s" in decision.denials[2].message


ANY_DAY = st.builds(DayPnl, realized=st.decimals(-1_000_000, 1_000_000, places=2))
WILD_FACTS = st.fixed_dictionaries(
    {
        "last_price": st.none() | st.decimals("0.05", 5000, places=2),
        "tick_age_s": st.none() | st.floats(0, 1000),
        "session_open": st.booleans(),
        "strategy_active": st.booleans(),
        "opt_in": st.sampled_from([None, "paper", "local"]),
        "kill": st.none() | st.just("drill"),
        "unknown_orders": st.integers(0, 3),
        "position": st.integers(-10_000, 10_000),
        "working": st.integers(0, 10_000),
        "open_orders": st.integers(0, 100),
        "trades_today": st.integers(0, 10_000),
        "last_entry_gap_s": st.none() | st.floats(0, 5),
        "day": ANY_DAY,
        "account_day": ANY_DAY,
    }
)
SIDES = st.sampled_from(Side)


@given(facts=WILD_FACTS, side=SIDES, quantity=st.integers(1, 1_000_000), price=st.integers(1, 100_000))
def test_an_exit_is_never_denied_by_a_rule_for_entries(
    facts: dict[str, Any], side: Side, quantity: int, price: int
) -> None:
    exit_signal = make_signal(
        intent=Intent.EXIT, side=side, quantity=quantity, order_type=OrderType.LIMIT, price=price * D("0.05")
    )
    assert denied(exit_signal, make_facts(**facts)) == set()


@given(facts=WILD_FACTS, side=SIDES, quantity=st.integers(1, 1_000_000))
def test_what_denies_an_exit_denies_the_same_entry(facts: dict[str, Any], side: Side, quantity: int) -> None:
    world = dataclasses.replace(make_facts(**facts), instrument=NIFTY_FUTURE)
    exit_signal = make_signal(intent=Intent.EXIT, side=side, quantity=quantity)
    both = {rule.code for rule in RULES if rule.binds is Binds.BOTH}
    codes = denied(exit_signal, world)
    assert codes <= both
    assert codes <= denied(exit_signal.model_copy(update={"intent": Intent.ENTRY}), world)


@given(facts=WILD_FACTS, side=SIDES, quantity=st.integers(1, 1_000_000))
def test_an_accepted_entry_never_passes_the_position_limit(facts: dict[str, Any], side: Side, quantity: int) -> None:
    world = make_facts(**facts)
    if not denied(make_signal(side=side, quantity=quantity), world):
        after = world.position + side.sign * (world.working + quantity)
        assert abs(after) <= RiskLimits().max_position


def test_only_instrument_tick_size_and_lot_bind_exits() -> None:
    assert {rule.code for rule in RULES if rule.binds is Binds.BOTH} == {"INSTRUMENT", "TICK_SIZE", "LOT_SIZE"}


@pytest.mark.parametrize(
    ("instrument", "units"),
    [
        (make_instrument(), 100_000),
        (NIFTY_FUTURE, 1800),
        (make_instrument(exchange=Exchange.NFO, name="BANKNIFTY", lot_size=35), 595),
        (make_instrument(exchange=Exchange.BFO, name="SENSEX", lot_size=20), 1000),
        (make_instrument(exchange=Exchange.NFO, name="INFY", lot_size=400), 8000),
    ],
)
def test_the_freeze_quantity_is_in_whole_lots(instrument: Instrument, units: int) -> None:
    assert freeze_quantity(instrument) == units


@pytest.mark.parametrize(
    ("scope", "limits", "named"),
    [
        ("strategy", {"max_position": -1}, "max_position"),
        ("strategy", {"max_positions": 5}, "max_positions"),
        ("account", {"max_position": 5}, "max_position"),
        ("account", {"max_day_loss": "plenty"}, "max_day_loss"),
        ("strategy", [], "limits"),
        ("broker", {}, "scope 'broker'"),
    ],
)
def test_a_bad_row_of_limits_is_refused_by_field(scope: str, limits: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_limits(scope, limits)


def test_what_a_row_leaves_out_takes_the_default() -> None:
    assert parse_limits("strategy", {"max_position": 7}) == RiskLimits(max_position=7)
    assert parse_limits("account", {}) == AccountLimits()


def test_the_page_of_codes_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run `python -m core.trading.risk.document`"
