"""The day's curve: which lines there are, that their times read as IST, and what is said of what is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from api.curve import CurveMark
from api.pages.day_curve import curves, in_words, options
from api.routers.reports import CurvePoint
from core.storage.redis import EVERYTHING
from core.trading.pnl import Pnl
from core.trading.signals import instance_name
from core.trading.types import Broker

OPENS = datetime(2026, 11, 23, 3, 45, tzinfo=UTC)  # 09:15 IST


def mark(
    instance: str, minute: int, realised: str, open_: str, broker: Broker = Broker.PAPER, unmarked: int = 0
) -> CurveMark:
    pnl = Pnl(Decimal(realised), Decimal(open_), Decimal(10), unmarked=unmarked)
    return CurveMark.of(broker, instance, OPENS + timedelta(minutes=minute), pnl)


def step(instance: str, minute: int, net: str) -> CurvePoint:
    money = {"realized_pnl": Decimal(net), "charges": Decimal(0), "net_pnl": Decimal(net)}
    return CurvePoint(at=OPENS + timedelta(minutes=minute), instance=instance, **money)


def day(*instances: str, broker: Broker = Broker.PAPER) -> list[CurveMark]:
    return [mark(name, minute, "100", str(minute), broker) for minute in range(3) for name in (*instances, EVERYTHING)]


def lines(marks: list[CurveMark], *steps: CurvePoint) -> dict[str, list[Any]]:
    return {one["name"]: one["data"] for one in options(marks, steps)["series"]}


def test_a_brokers_whole_comes_first_and_its_instances_where_there_are_several() -> None:
    real = next(broker for broker in Broker if broker is not Broker.PAPER)
    several = day("calm@paper", "swing@paper") + day("swing@x", broker=real)
    assert list(curves(several)) == ["paper", "calm@paper", "swing@paper", real.value]


def test_the_net_line_has_what_is_open_and_the_dotted_one_each_fill() -> None:
    fills = [step("swing@paper", 0, "-5"), step("calm@paper", 1, "20"), step("swing@paper", 1, "7")]
    found = lines(day("swing@paper"), *fills)
    assert [money for _, money in found["paper"]] == [90, 91, 92]
    assert [money for _, money in found["paper, realised"]] == [-5, 15, 27]
    kinds = {one["name"]: one["lineStyle"]["type"] for one in options(day("swing@paper"), fills)["series"]}
    assert kinds == {"paper": "solid", "paper, realised": "dotted"}


def test_fills_of_one_broker_are_not_in_the_others_line() -> None:
    real = next(broker for broker in Broker if broker is not Broker.PAPER)
    name = instance_name("swing", real)
    found = lines(day("swing@paper") + day(name, broker=real), step("swing@paper", 0, "1"), step(name, 0, "2"))
    assert [[money for _, money in found[f"{broker}, realised"]] for broker in (Broker.PAPER, real)] == [[1], [2]]


def test_times_read_as_ist_wherever_the_browser_is() -> None:
    shown = options(day("swing@paper"), [])
    assert shown["useUTC"] is True
    first = datetime.fromtimestamp(shown["series"][0]["data"][0][0] / 1000, UTC)
    assert (first.hour, first.minute) == (9, 15)


def test_what_has_no_price_is_said_to_be_missing() -> None:
    assert in_words([]) == ""
    assert "missing" not in in_words(day("swing@paper"))
    said = in_words([mark(EVERYTHING, 0, "0", "0", unmarked=1), mark(EVERYTHING, 1, "0", "0", unmarked=2)])
    assert "09:16:00 IST; 2 open without a price, missing from the sums" in said
