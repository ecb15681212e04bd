"""What a kill switch closes: by table, and by invariants that no combination of books may break."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.kill import Held, Key, Net, plan
from core.trading.types import Product, Side

INFY: Key = ("NSE:INFY", Product.MIS)


def held(instance: str, quantity: int, *, exiting: int = 0, in_scope: bool = True, blocked: str = "") -> Held:
    return Held(f"{instance}@zerodha", INFY[0], 408065, INFY[1], quantity, exiting, in_scope, blocked)


def one(rows: list[Held], at_broker: int) -> Net:
    (net,) = plan(rows, {INFY: at_broker})
    return net


def shown(net: Net) -> list[tuple[str, str, int]]:
    return [(each.held.instance.split("@")[0], each.side.value, each.quantity) for each in net.exits]


@pytest.mark.parametrize(
    ("rows", "at_broker", "exits"),
    [
        pytest.param([held("a", 10)], 10, [("a", "SELL", 10)], id="a long is sold"),
        pytest.param([held("a", -10)], -10, [("a", "BUY", 10)], id="a short is bought back"),
        pytest.param([held("a", 10), held("b", -4)], 6, [("a", "SELL", 6)], id="opposite instances: the net alone"),
        pytest.param([held("a", 10), held("b", -10)], 0, [], id="instances that offset each other are net flat"),
        pytest.param([held("a", 6), held("b", 9)], 15, [("b", "SELL", 9), ("a", "SELL", 6)], id="largest first"),
        pytest.param([held("a", 10)], 4, [("a", "SELL", 4)], id="somebody sold in the app: not past the broker's net"),
        pytest.param([held("a", 10)], -3, [], id="the broker is short already: nothing"),
        pytest.param([held("a", 10)], 25, [("a", "SELL", 10)], id="what is not ours stays"),
        pytest.param([held("a", 10, exiting=10)], 10, [], id="an exit under way takes all of it"),
        pytest.param([held("a", 10, exiting=4)], 10, [("a", "SELL", 6)], id="an exit under way takes some of it"),
        pytest.param([held("a", 10, exiting=4)], 6, [("a", "SELL", 2)], id="its fill may be in the net already"),
        pytest.param([held("a", 10, blocked="UNKNOWN order")], 10, [], id="nothing while an order is in doubt"),
        pytest.param(
            [held("a", 10), held("b", -10, in_scope=False)], 0, [("a", "SELL", 10)], id="one strategy: others stay"
        ),
        pytest.param(
            [held("a", 10), held("b", 5, in_scope=False)], 15, [("a", "SELL", 10)], id="one strategy: theirs is theirs"
        ),
        pytest.param(
            [held("a", 10), held("b", 5, in_scope=False)],
            8,
            [("a", "SELL", 3)],
            id="one strategy, broker short of both",
        ),
    ],
)
def test_exits_of(rows: list[Held], at_broker: int, exits: list[tuple[str, str, int]]) -> None:
    assert shown(one(rows, at_broker)) == exits


@pytest.mark.parametrize(
    ("rows", "at_broker", "closable"),
    [
        pytest.param([held("a", 10, exiting=10)], 10, 10, id="all of it"),
        pytest.param([held("a", 10, exiting=10)], 4, 4, id="somebody sold six"),
        pytest.param([held("a", 10, exiting=10)], -3, 0, id="somebody sold more"),
        pytest.param([held("a", -10, exiting=10)], -4, 4, id="somebody bought back six"),
        pytest.param([held("a", 10, exiting=10), held("b", 5, in_scope=False)], 12, 7, id="what others hold is theirs"),
        pytest.param([held("a", 10, exiting=10, blocked="in doubt")], 4, 4, id="also while an order is in doubt"),
    ],
)
def test_what_exits_may_take_at_most(rows: list[Held], at_broker: int, closable: int) -> None:
    assert one(rows, at_broker).closable == closable


def test_it_says_why_it_does_less() -> None:
    assert "6 short" in one([held("a", 10)], 4).note
    assert one([held("a", 10, blocked="in doubt")], 10).note == "in doubt"
    assert one([held("a", 10)], 10).note == ""


def test_what_nobody_holds_is_not_listed() -> None:
    assert plan([held("a", 0)], {INFY: 5}) == ()
    assert plan([held("a", 5, in_scope=False)], {INFY: 5}) == ()


positions = st.builds(
    lambda name, key, quantity, part, in_scope: Held(
        f"{name}@zerodha", key, 1, Product.MIS, quantity, abs(quantity) * part // 4, in_scope
    ),
    st.sampled_from("abcdef"),
    st.sampled_from(["NSE:INFY", "NSE:SBIN"]),
    st.integers(-50, 50),
    st.integers(0, 4),
    st.booleans(),
)
books = st.lists(positions, max_size=8, unique_by=lambda row: (row.instance, row.instrument))
nets = st.fixed_dictionaries(
    {("NSE:INFY", Product.MIS): st.integers(-80, 80), ("NSE:SBIN", Product.MIS): st.integers(-80, 80)}
)


@given(books, nets)
def test_never_past_the_brokers_net_and_never_opens(rows: list[Held], at_broker: dict[Key, int]) -> None:
    others: dict[Key, int] = defaultdict(int)
    for row in rows:
        if not row.in_scope:
            others[row.key] += row.quantity
    for net in plan(rows, at_broker):
        sides = {each.side for each in net.exits}
        assert len(sides) <= 1, "one key, one direction"
        for each in net.exits:
            assert each.held.in_scope
            assert each.quantity > 0
            assert each.held.quantity * each.side.sign < 0, "an exit goes against what is held"
            assert each.quantity + each.held.exiting <= abs(each.held.quantity), "never turns an instance's position"
        if not net.exits:
            continue
        sent, sign = sum(each.quantity for each in net.exits), -next(iter(sides)).sign
        bound = max((at_broker[net.key] - others[net.key]) * sign, 0)
        assert sent + net.exiting <= min(bound, net.ours * sign)


@given(books, nets)
def test_with_all_in_scope_the_account_is_never_turned(rows: list[Held], at_broker: dict[Key, int]) -> None:
    everything = [Held(r.instance, r.instrument, 1, r.product, r.quantity, r.exiting) for r in rows]
    for net in plan(everything, at_broker):
        sent = sum(each.quantity * each.side.sign for each in net.exits)
        before, after = at_broker[net.key], at_broker[net.key] + sent
        assert before * after >= 0
        assert abs(after) <= abs(before)


def test_side_of_an_exit_is_the_opposite_of_what_is_held() -> None:
    assert one([held("a", 3)], 3).exits[0].side is Side.SELL
