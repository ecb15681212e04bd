"""Rows to instances: who runs where, who does not and why, and every bad field of every bad row at once."""

from __future__ import annotations

from typing import Any

import pytest

from control.plans import BadStrategies, Planner
from core.trading.types import Broker
from strategies import registry
from tests.strategy_world import BOOK, PAPER_AND_ZERODHA, make_row, make_settings


def planner(**changes: Any) -> Planner:
    return Planner(make_settings(**changes), registry.known(), BOOK)


@pytest.mark.parametrize(
    ("opt_ins", "settings", "running", "reason"),
    [
        ({}, {}, ["s@paper"], None),
        (PAPER_AND_ZERODHA, {}, ["s@paper", "s@zerodha"], None),
        (PAPER_AND_ZERODHA, {"active_brokers": (Broker.PAPER,)}, ["s@paper"], "zerodha is not in ACTIVE_BROKERS"),
        (
            PAPER_AND_ZERODHA,
            {"kite_target": "production"},
            ["s@paper"],
            "opted in for target local, and this deployment trades on production",
        ),
        (
            {"zerodha": "production"},
            {},
            ["s@paper"],
            "opted in for target production, and this deployment trades on local",
        ),
    ],
)
def test_paper_always_and_another_broker_only_as_opted_in(
    opt_ins: dict[str, str], settings: dict[str, Any], running: list[str], reason: str | None
) -> None:
    plans, idle = planner(**settings).all([make_row(opt_ins=opt_ins)])
    assert [plan.name for plan in plans] == running
    assert [row.reason for row in idle] == ([reason] if reason else [])


def test_a_row_switched_off_is_not_checked() -> None:
    plans, idle = planner().all([make_row(active=False, class_name="Gone", instruments=())])
    assert plans == []
    assert [(row.name, row.reason) for row in idle] == [("s@paper", "the strategy is switched off")]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"class_name": "Momentun"}, "class_name", "no strategy class 'Momentun'; known: "),
        ({"parameters": {"fast": "many"}}, "parameters.fast", "integer"),
        ({"parameters": {"fats": 3}}, "parameters.fats", "Extra inputs"),
        ({"parameters": {"fast": 9, "slow": 4}}, "parameters", "fast (9) must be smaller than slow (4)"),
        ({"instruments": ("NSE:NOPE",)}, "instruments", "'NSE:NOPE' is not in today's instruments of local"),
        ({"instruments": ("NSE:NIFTY 50",)}, "instruments", "is an index"),
        ({"instruments": ()}, "instruments", "names no instrument"),
        ({"product": "MISS"}, "product", "none of CNC, MIS, NRML"),
        ({"age_limit_s": 0.0}, "age_limit_s", "greater than 0"),
        ({"capital": 0}, "capital", "greater than 0"),
        ({"opt_ins": {"paper": "local"}}, "opt_ins.paper", "no broker to opt in to"),
        ({"opt_ins": {"upstox": "local"}}, "opt_ins.upstox", "no broker to opt in to"),
        ({"opt_ins": {"zerodha": "prod"}}, "opt_ins.zerodha", "none of local, zerodha-sandbox, production"),
    ],
)
def test_a_bad_field_is_named_with_its_row(changes: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(BadStrategies) as refused:
        planner().all([make_row(), make_row(strategy_id="bad", **changes)])
    (problem,) = refused.value.problems
    assert (problem.strategy_id, problem.field) == ("bad", field)
    assert says in problem.message


def test_all_bad_rows_are_named_at_once() -> None:
    rows = [
        make_row(strategy_id="a", class_name="X", instruments=("NSE:NO", "NSE:NEITHER")),
        make_row(strategy_id="b", parameters={"fast": 0, "slow": 0}),
    ]
    with pytest.raises(BadStrategies) as refused:
        planner().all(rows)
    assert [(problem.strategy_id, problem.field) for problem in refused.value.problems] == [
        ("a", "class_name"), ("a", "instruments"), ("a", "instruments"), ("b", "parameters.fast"), ("b", "parameters.slow"),
    ]  # fmt: skip
    assert "b: parameters.slow: Input should be greater than or equal to 3" in str(refused.value)
