"""Faults of answers, of what is shown and of the account, over the wire with the official SDK."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from kiteconnect import KiteConnect
from kiteconnect.exceptions import (
    DataException,
    GeneralException,
    InputException,
    KiteException,
    NetworkException,
    OrderException,
    PermissionException,
    TokenException,
)

from sandbox.fault_kinds import STATUS_OF
from tests.integration.sandbox_support import SandboxProcess, market_order, place, row, wait_for, wait_status

LOST = requests.exceptions.ReadTimeout
BROKEN = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox"), "--still", "--extra-instruments", "3") as process:
        yield process


@pytest.fixture
def sandbox(process: SandboxProcess) -> Iterator[SandboxProcess]:
    """The module's sandbox; rules a test gave are gone after it."""
    yield process
    process.admin("DELETE", "faults")


@pytest.fixture
def kite(sandbox: SandboxProcess) -> KiteConnect:
    client = sandbox.login()
    client.timeout = 2
    return client


# Answers ------------------------------------------------------------------------------------------------------

ANSWERS: list[tuple[str, dict[str, Any], Any, int | None, bool]] = [
    # kind, parameters, what the SDK raises, its code, whether the order is there at once
    ("answer_lost", {}, LOST, None, True),
    ("answer_lost", {"delay_s": 0.2}, BROKEN, None, True),
    ("request_lost", {}, LOST, None, False),
    ("slow_answer", {"delay_s": 4}, LOST, None, True),
    ("reset_before_read", {}, BROKEN, None, False),
    ("reset_after_accept", {}, BROKEN, None, True),
    ("reset_mid_body", {}, BROKEN, None, True),
    ("http_429", {}, NetworkException, 429, False),
    ("http_502", {}, DataException, 502, False),
    ("http_502", {"accepted": True}, DataException, 502, True),
    ("http_503", {}, NetworkException, 503, False),
    ("http_503", {"accepted": True}, NetworkException, 503, True),
    ("http_504", {}, NetworkException, 504, True),
    ("http_504", {"accepted": False}, NetworkException, 504, False),
    ("html_body", {}, DataException, 502, True),
    ("html_body", {"status": 200, "accepted": False}, DataException, 502, False),
    ("empty_body", {}, DataException, 502, True),
    ("truncated_body", {}, DataException, 502, True),
    ("timed_out_400", {}, OrderException, 400, True),
    ("timed_out_400", {"accepted": False}, OrderException, 400, False),
    ("error_without_type", {}, TypeError, None, True),
]


@pytest.mark.parametrize(("kind", "parameters", "raises", "code", "there"), ANSWERS)
def test_a_bad_answer_looks_as_it_should_and_the_ledger_knows_the_truth(
    sandbox: SandboxProcess, kite: KiteConnect, kind: str, parameters: dict[str, Any], raises: Any, code: int | None, there: bool
) -> None:  # fmt: skip
    tag = f"bad{time.monotonic_ns()}"[:20]
    rule = sandbox.fault(kind, tag=tag, count=1, **parameters)
    with pytest.raises(raises) as caught:
        place(kite, price=1400.0, tag=tag)
    assert code is None or getattr(caught.value, "code", None) == code
    entries = sandbox.ledger(tag)
    assert len(entries) == there
    (fired,) = sandbox.fired(rule)
    assert (fired["kind"], fired["tag"], fired["route"]) == (kind, tag, "order.place")
    if there and kind != "request_lost":
        assert fired["order_id"] == entries[0]["order_id"]
    place(kite, price=1400.0, tag=tag)  # the rule is spent
    assert len(sandbox.ledger(tag)) == there + 1


def test_a_slow_accept_carries_the_order_out_after_the_client_gave_up(
    sandbox: SandboxProcess, kite: KiteConnect
) -> None:
    sandbox.fault("slow_accept", tag="slowaccept", delay_s=4)
    with pytest.raises(LOST):
        place(kite, price=1400.0, tag="slowaccept")
    assert sandbox.ledger("slowaccept") == []
    wait_for(lambda: sandbox.ledger("slowaccept"), "the order nobody waits for")


@pytest.mark.parametrize(("error_type", "status"), STATUS_OF.items())
def test_every_error_type_comes_with_its_status_and_words(
    sandbox: SandboxProcess, kite: KiteConnect, error_type: str, status: int
) -> None:
    classes = {
        each.__name__: each
        for each in (DataException, InputException, NetworkException, OrderException, PermissionException, TokenException)
    }  # fmt: skip
    sandbox.fault("error", route="portfolio.positions", error_type=error_type, message="IP (1.2.3.4) is not allowed")
    with pytest.raises(KiteException, match=r"IP \(1\.2\.3\.4\) is not allowed") as caught:
        kite.positions()
    assert type(caught.value) is classes.get(error_type, GeneralException)
    assert caught.value.code == status


def test_a_killed_session_gets_403_until_the_next_login(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("session_killed", route="orders", nth=2)
    kite.orders()
    with pytest.raises(TokenException):
        kite.orders()
    with pytest.raises(TokenException):
        kite.profile()
    assert not sandbox.admin("GET", "status")["session"]["active"]
    assert sandbox.login().orders() is not None


def test_a_cut_dump_is_half_a_dump(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    whole = httpx.get(f"{sandbox.root}/instruments").content
    sandbox.fault("truncated_body", route="market.instruments")
    assert httpx.get(f"{sandbox.root}/instruments").content == whole[: len(whole) // 2]


def test_cancellations_and_modifications_are_hit_by_tag_symbol_and_order_id(
    sandbox: SandboxProcess, kite: KiteConnect
) -> None:
    mine = place(kite, price=1400.0, tag="hit1")
    other = place(kite, price=1400.0, tag="hit2")
    for order_id in (mine, other):
        wait_status(kite, order_id, "OPEN")
    by_tag = sandbox.fault("http_504", route="order.cancel", tag="hit1", accepted=False)
    with pytest.raises(NetworkException):
        kite.cancel_order("regular", mine)
    assert row(kite, mine)["status"] == "OPEN"
    sandbox.admin("DELETE", f"faults?id={by_tag['id']}")
    sandbox.fault("reset_after_accept", route="order.*", order_id=other)
    with pytest.raises(BROKEN):
        kite.modify_order("regular", other, price=1401.0)
    wait_for(lambda: row(kite, other)["price"] == 1401, "the modification whose answer was lost")
    kite.cancel_order("regular", mine)
    wait_status(kite, mine, "CANCELLED")


# What is shown ------------------------------------------------------------------------------------------------


def test_an_empty_book_is_empty_for_a_while(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1400.0)
    wait_status(kite, order_id, "OPEN")
    sandbox.fault("empty_book", for_s=2)
    assert kite.orders() == []
    wait_for(lambda: kite.orders(), "the book to be back")
    wait_status(kite, market_order(kite), "COMPLETE")
    for route in ("trades", "portfolio.positions"):
        sandbox.fault("empty_book", route=route, count=1)
    assert (kite.trades(), kite.positions()) == ([], {"net": [], "day": []})
    assert kite.trades()
    assert kite.positions()["net"]


def test_another_user_s_book_has_his_rows_and_none_of_ours(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1400.0)
    keys = wait_status(kite, order_id, "OPEN").keys()
    sandbox.fault("foreign_book", user_id="ZZ7777", count=1)
    foreign = kite.orders()
    assert {each["account_id"] for each in foreign} == {"ZZ7777"}
    assert all(keys == each.keys() for each in foreign)
    assert row(kite, order_id)["account_id"] == "AP0001"


def test_a_stale_book_is_one_state_behind_and_a_history_out_of_order(
    sandbox: SandboxProcess, kite: KiteConnect
) -> None:
    order_id = market_order(kite, tag="stale1")
    wait_status(kite, order_id, "COMPLETE")
    sandbox.fault("stale_book", tag="stale1", count=1)
    assert row(kite, order_id)["status"] == "OPEN"
    assert row(kite, order_id)["status"] == "COMPLETE"
    true = [each["status"] for each in kite.order_history(order_id)]
    rule = sandbox.fault("history_disorder", order_id=order_id)
    shuffled = [each["status"] for each in kite.order_history(order_id)]
    assert shuffled != true
    assert sorted(shuffled) == sorted(true)
    assert [each["order_id"] for each in sandbox.fired(rule)] == [order_id]


# The account --------------------------------------------------------------------------------------------------


def test_a_carried_position_is_there_and_survives_a_restart(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        kite = process.login()
        wait_status(kite, market_order(kite, tradingsymbol="TCS", quantity=3), "COMPLETE")
        process.fault("foreign_position", symbol="NSE:TCS", quantity=-5, price=3000)

        def position() -> dict[str, Any] | None:
            found = [each for each in kite.positions()["net"] if each["tradingsymbol"] == "TCS"]
            return found[0] if found and found[0]["overnight_quantity"] else None

        before = wait_for(position, "the carried position")
        assert (before["quantity"], before["overnight_quantity"], before["day_buy_quantity"]) == (-2, -5, 3)
        process.kill()
        process.start()
        assert position() == before
        assert process.admin("GET", "faults")["by_kind"] == {"foreign_position": 1}


def test_the_day_rolls_over_on_demand_and_the_ledger_stays(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1400.0, tag="rolled")
    wait_status(kite, order_id, "OPEN")
    sandbox.fault("day_rolled", after_s=0.2)
    wait_for(lambda: not kite.orders(), "the new day's empty book")
    (entry,) = sandbox.ledger("rolled")
    assert (entry["status"], entry["filled_quantity"]) == ("CANCELLED", 0)


# Limits, restarts, scenario, the endpoint itself --------------------------------------------------------------


def test_the_limits_of_second_minute_and_day_are_set_and_counted(tmp_path: Path) -> None:
    flags = ("--strict-limits", "--orders-per-second", "1000", "--orders-per-minute", "1000", "--orders-per-day", "5")
    with SandboxProcess(tmp_path, "--still", *flags) as process:
        kite = process.login()

        def refused(times: int) -> int:
            count = 0
            for _ in range(times):
                try:
                    place(kite, price=1400.0, quantity=1)
                except NetworkException as error:
                    count += error.code == 429
            return count

        assert refused(7) == 2
        assert process.admin("GET", "limits")["refused"] == {"order.day": 2}
        process.kill()
        process.start()  # the day's count is durable
        assert refused(1) == 1
        process.admin("POST", "limits", orders_per_day=100_000)
        assert refused(20) == 0
        process.admin("POST", "limits", orders_per_second=1)
        over = refused(20)
        assert over > 0
        assert process.admin("GET", "limits")["refused"] == {"order.day": 1, "order.second": over}


@pytest.mark.parametrize(("accepted", "orders"), [(True, 1), (False, 0)])
def test_the_sandbox_kills_itself_and_its_rules_and_counts_survive(tmp_path: Path, accepted: bool, orders: int) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        kite = process.login()
        process.fault("sandbox_killed", nth=2, accepted=accepted)
        place(kite, price=1400.0, tag="first")
        with pytest.raises(requests.exceptions.ConnectionError):
            place(kite, price=1400.0, tag="second")
        assert process.process.wait(10) == -9
        process.start()
        assert len(process.ledger("second")) == orders
        place(kite, price=1400.0, tag="third")  # it fires once, over the restart too
        report = process.admin("GET", "faults")
        assert report["by_kind"] == {"sandbox_killed": 1}
        assert [(each["seen"], each["fired"], each["active"]) for each in report["rules"]] == [(2, 1, False)]


def test_a_request_held_back_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        kite = process.login()
        process.fault("answer_lost", delay_s=600)
        ends: list[type[BaseException]] = []

        def send() -> None:
            with pytest.raises(requests.exceptions.ConnectionError) as broken:
                place(kite, price=1400.0, tag="held")
            ends.append(broken.type)

        waiting = threading.Thread(target=send)
        waiting.start()
        wait_for(lambda: process.ledger("held"), "the order")
        process.stop()  # in ten seconds, or it raises
        waiting.join(10)
        assert ends


def test_a_scenario_file_gives_rules_at_the_start_and_its_counts_go_on(tmp_path: Path) -> None:
    scenario = tmp_path / "plan.yaml"
    scenario.write_text("seed: 11\nrules:\n- {kind: http_503, rate: 0.5}\n- {kind: late_in_book, rate: 0.1}\n")
    seen = []
    for folder in ("one", "two"):
        with SandboxProcess(tmp_path / folder, "--still", "--scenario", str(scenario)) as process:
            kite = process.login()
            outcome = ""
            for n in range(16):
                if n == 8:
                    process.stop()
                    process.start()
                try:
                    place(kite, price=1400.0, quantity=1)
                    outcome += "."
                except NetworkException:
                    outcome += "x"
            seen.append(outcome)
            report = process.admin("GET", "faults")
            assert [each["id"] for each in report["rules"]] == ["scenario-1", "scenario-2"]
            assert report["by_kind"]["http_503"] == outcome.count("x")
    assert seen[0] == seen[1]  # the seed decides
    assert 2 < seen[0].count("x") < 14


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"kind": "answer_forgotten"}, "kind"),
        ({"kind": "http_429", "quantity": 3}, "does not read quantity"),
        ({"kind": "late_in_book", "route": "orders"}, "looks at no route"),
        ({"kind": "empty_book", "tag": "x"}, "name no order"),
        ({"kind": "foreign_order", "now": True}, "needs one `symbol`"),
        ({"kind": "http_429", "symbol": "NSE:NOSUCH"}, "there is no NSE:NOSUCH"),
        ({"kind": "error", "error_type": "Oops"}, "error_type"),
        ({"kind": "day_rolled", "rate": 0.5}, "fires once"),
        ([{"kind": "http_429"}, {"kind": "http_429", "rate": 0}], "rules.1.rate"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_its_reason(sandbox: SandboxProcess, body: Any, words: str) -> None:
    answer = httpx.post(f"{sandbox.root}/admin/faults", content=json.dumps(body))
    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert sandbox.admin("GET", "faults")["rules"] == []


def test_the_ledger_pages_and_stays_quick_and_whole_at_5000_orders(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    place(kite, price=1400.0, tag="page1")
    wait_status(kite, market_order(kite, tag="page2", quantity=2), "COMPLETE")
    everything = sandbox.admin("GET", "ledger")
    paged: list[dict[str, Any]] = []
    while chunk := sandbox.admin("GET", f"ledger?limit=2&after={paged[-1]['seq'] if paged else 0}"):
        paged += chunk
    assert paged == everything
    (entry,) = sandbox.ledger("page2")
    assert (entry["account"], entry["source"], entry["status"]) == ("AP0001", "api", "COMPLETE")
    assert sum(fill["quantity"] for fill in entry["fills"]) == entry["filled_quantity"] == 2
