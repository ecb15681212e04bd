"""What of a command is refused before anything is sent: each refusal names the field and the fix."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.commands import MODIFICATIONS, Changes, Modifiable, fill_refusal, given_fill, refusals
from core.trading.types import Broker, OrderType

ORDER = Modifiable(Broker.PAPER, OrderType.LIMIT, Decimal("0.05"), 1, 10, 4, 0)
STOP = replace(ORDER, order_type=OrderType.SL)


@pytest.mark.parametrize(
    ("order", "changes", "told"),
    [
        (ORDER, Changes(price=Decimal("100.05")), ""),
        (STOP, Changes(price=Decimal(100), trigger_price=Decimal("99.95")), ""),
        (ORDER, Changes(quantity=5), ""),
        (replace(ORDER, modifications=24), Changes(price=Decimal(1)), ""),
        (ORDER, Changes(), "nothing to change"),
        (replace(ORDER, modifications=25), Changes(price=Decimal(1)), "25 is Kite's limit: cancel it and place anew"),
        (ORDER, Changes(price=Decimal("100.03")), "multiple of the tick size 0.05: give 100.00 or 100.05"),
        (ORDER, Changes(price=Decimal("0.01")), "give 0.05"),
        (ORDER, Changes(price=Decimal(0)), "price 0: give a positive price"),
        (ORDER, Changes(trigger_price=Decimal(99)), "trigger_price: a LIMIT order has none"),
        (replace(ORDER, order_type=OrderType.MARKET), Changes(price=Decimal(99)), "price: a MARKET order has none"),
        (replace(ORDER, order_type=OrderType.SL_M), Changes(trigger_price=Decimal(99)), ""),
        (ORDER, Changes(quantity=10), "only less than 10 is allowed"),
        (ORDER, Changes(quantity=4), "4 are filled already"),
        (replace(ORDER, lot_size=2), Changes(quantity=7), "no multiple of the lot size 2"),
        (replace(ORDER, broker=Broker.ZERODHA), Changes(quantity=5), "cancel it and place anew"),
        (replace(ORDER, broker=Broker.ZERODHA), Changes(price=Decimal(5)), ""),
    ],
)
def test_a_change_is_taken_or_refused_with_field_and_fix(order: Modifiable, changes: Changes, told: str) -> None:
    found = refusals(order, changes)
    assert bool(found) == bool(told)
    assert told in "; ".join(found)


@given(
    price=st.none() | st.decimals(min_value="0.05", max_value="99999", places=2),
    quantity=st.none() | st.integers(1, 1000),
)
def test_changes_come_back_from_a_commands_parameters_digit_by_digit(
    price: Decimal | None, quantity: int | None
) -> None:
    changes = Changes(price=price, quantity=quantity)
    assert Changes.of(changes.parameters()) == changes


@pytest.mark.parametrize("parameters", [{"price": "cheap"}, {"price": "NaN"}, {"quantity": "5"}, {"quantity": True}])
def test_what_is_no_number_is_named(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        Changes.of(parameters)


FILL = {"quantity": 3, "price": "100.5", "trade_id": "T1", "filled_at": "2026-10-07T10:15:30+05:30"}
NOW = datetime(2026, 10, 7, 5, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"quantity": 4}, None),
        ({"quantity": 5}, "quantity 5: 4 are left"),
        ({"quantity": 0}, "quantity 0"),
        ({"price": "0"}, "price 0"),
        ({"filled_at": "2026-10-07T10:15:30"}, "filled_at"),
        ({"filled_at": "2026-10-07T10:45:30+05:30"}, "filled_at"),
    ],
)
def test_a_fill_read_elsewhere_is_booked_or_refused_with_its_field(changes: dict[str, Any], told: str | None) -> None:
    refused = fill_refusal(given_fill(FILL | changes), 4, NOW)
    assert (refused is None) == (told is None)
    assert told is None or told in (refused or "")


@pytest.mark.parametrize("changes", [{"quantity": "many"}, {"price": "cheap"}, {"filled_at": "then"}, {"price": None}])
def test_a_fill_that_cannot_be_read_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join([*changes, *(str(value) for value in changes.values())])):
        given_fill(FILL | changes)
    with pytest.raises(ValueError, match="trade_id: it is missing"):
        given_fill({name: value for name, value in FILL.items() if name != "trade_id"})


def test_one_figure_holds_for_every_broker() -> None:
    from core.brokers.paper import PaperTrader
    from core.brokers.zerodha import LIMITS

    assert {PaperTrader.profile.modifications, LIMITS.modifications} == {MODIFICATIONS}
