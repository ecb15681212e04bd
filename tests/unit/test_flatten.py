"""Flatten without a journal: against an account that loses answers, crashes and lags, it never sends a line twice."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, PlaceRequest, Trade
from core.brokers.zerodha import LIMITS
from core.clock import trading_day, utc_now
from core.errors import NotPlaced, OutcomeUnknown, StopTheStart, Transient
from core.flatten import Flatten, FlattenStopped, Seen
from core.flatten_file import FlattenFile, Outcome, read_sends
from core.trading.durations import OrderDurations
from core.trading.types import Exchange, OrderType, Product, Side

FAST = OrderDurations(absence_spacing=0.02, absence_after=0.1, look_longest=0.5, send_deadline=0.05)


UNLIMITED = BrokerProfile(None, 0, None, 0, None, 0, None)


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Desk:
    """A Zerodha account in memory. `fate` says what happens to the n-th place, before or after it reached the book."""

    positions_: dict[str, int] = field(default_factory=dict)
    rows: dict[str, BookRow] = field(default_factory=dict)
    traded: dict[str, tuple[Trade, ...]] = field(default_factory=dict)
    placed: list[PlaceRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    fates: list[Exception | BaseException | None] = field(default_factory=list)
    lost_before: bool = False
    fills: Callable[[PlaceRequest], int] = lambda request: request.quantity
    rests: bool = False
    reads_fail: int = 0
    empty_books: int = 0
    """So many next books come without rows."""
    empty_positions: int = 0
    asked: list[float] = field(default_factory=list)
    """When positions were asked for."""
    hidden: set[str] = field(default_factory=set)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    profile: BrokerProfile = UNLIMITED

    async def account(self) -> str:
        return "AB1234"

    async def left_out(self) -> tuple[str, ...]:
        return ()

    async def book(self) -> Book:
        if self.reads_fail:
            self.reads_fail -= 1
            raise Transient("Zerodha orders: 502")
        now = utc_now()
        if self.empty_books:
            self.empty_books -= 1
            return Book("AB1234", trading_day(now), now, now, ())
        shown = tuple(row for row in self.rows.values() if not self.hidden & set(row.tags))
        return Book("AB1234", trading_day(now), now, now, shown)

    async def positions(self) -> tuple[BrokerPosition, ...]:
        self.asked.append(time.monotonic())
        if self.empty_positions:
            self.empty_positions -= 1
            return ()
        return tuple(
            BrokerPosition(Exchange.NSE, symbol, 1, Product.MIS, quantity, Decimal(100))
            for symbol, quantity in self.positions_.items()
            if quantity
        )

    async def trades(self, broker_order_ids: list[str]) -> dict[str, tuple[Trade, ...]]:
        return {name: self.traded.get(name, ()) for name in broker_order_ids}

    async def cancel(self, broker_order_id: str, *, variety: str = "regular") -> None:
        self.cancelled.append(broker_order_id)
        self.rows[broker_order_id] = replace(self.rows[broker_order_id], status="CANCELLED")

    async def place(self, request: PlaceRequest) -> str:
        self.placed.append(request)
        fate = self.fates.pop(0) if self.fates else None
        if fate is not None and (self.lost_before or isinstance(fate, NotPlaced)):
            raise fate
        name = self._accept(request)
        if fate is not None:
            raise fate
        return name

    def _accept(self, request: PlaceRequest) -> str:
        name = f"B{next(self.numbers)}"
        filled = self.fills(request)
        status = "COMPLETE" if filled == request.quantity else "OPEN" if self.rests else "CANCELLED"
        self.rows[name] = row(name, status, request.side, request.quantity, filled, request.tag, request.tradingsymbol)
        if filled:
            self.traded[name] = (
                Trade(f"T{name}", name, Exchange.NSE, request.tradingsymbol, 1, request.side, Product.MIS, filled,
                      Decimal(100), utc_now()),
            )  # fmt: skip
            self.positions_[request.tradingsymbol] += request.side.sign * filled
        return name


def row(
    name: str, status: str, side: Side, quantity: int, filled: int = 0, tag: str | None = None, symbol: str = "INFY"
) -> BookRow:
    return BookRow(
        name, (tag,) if tag else (), status, None, Exchange.NSE, symbol, 1, side, Product.MIS, OrderType.MARKET,
        quantity, filled, 0, None, None, None, utc_now(), {"variety": "regular"},
    )  # fmt: skip


def earlier() -> dict[str, BookRow]:
    """An order of this morning: a book without it, or without anything, is no evidence."""
    return {"A": row("A", "COMPLETE", Side.BUY, 10, 10)}


async def run(desk: Desk, var: Path, said: list[str] | None = None) -> Seen:
    with FlattenFile(var, "AB1234", "local") as file:
        work = Flatten(desk, file, (said if said is not None else []).append, FAST, read_every_s=0.02)
        return await work.run()


def lines(var: Path) -> list[dict[str, object]]:
    (path,) = (var / "flatten").glob("*.jsonl")
    return [json.loads(text) for text in path.read_text().splitlines()]


async def test_it_cancels_every_order_and_closes_every_position(tmp_path: Path) -> None:
    desk = Desk(
        {"INFY": 10, "SBIN": -4}, {"A": row("A", "OPEN", Side.BUY, 5), "B": row("B", "COMPLETE", Side.BUY, 5, 5)}
    )
    seen = await run(desk, tmp_path / "var")
    assert seen.is_flat
    assert desk.cancelled == ["A"]
    assert [(p.tradingsymbol, p.side, p.quantity) for p in desk.placed] == [
        ("INFY", Side.SELL, 10),
        ("SBIN", Side.BUY, 4),
    ]
    sends = read_sends(tmp_path)
    assert [(send.outcome, send.status, send.filled_quantity) for send in sends] == [
        (Outcome.ENDED, "COMPLETE", 10),
        (Outcome.ENDED, "COMPLETE", 4),
    ]
    assert sends[0].trades[0].quantity == 10


async def test_the_line_is_on_disk_before_the_send_leaves(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10})
    seen: list[list[dict[str, object]]] = []

    def fills(request: PlaceRequest) -> int:
        seen.append(lines(tmp_path / "var"))
        return request.quantity

    desk.fills = fills
    await run(desk, tmp_path / "var")
    (at_send,) = seen
    assert [line["kind"] for line in at_send] == ["send"]
    assert at_send[0]["tag"] == desk.placed[0].tag


async def test_a_command_counts_from_when_it_leaves_not_from_when_it_was_let_go(tmp_path: Path) -> None:
    """Else the commands of several seconds could leave in one, where the machine stalls in between."""
    desk = Desk({"INFY": 10}, {"A": row("A", "OPEN", Side.BUY, 5)}, profile=LIMITS)
    reached: list[bool] = []

    def last() -> bool:
        return work._pacer._budget._windows[0].sent[-1].reached is not None

    def fills(request: PlaceRequest) -> int:
        assert request.leaves is not None
        reached.append(last())
        request.leaves()
        reached.append(last())
        return request.quantity

    async def cancel(broker_order_id: str, *, variety: str = "regular") -> None:
        reached.append(last())
        desk.rows[broker_order_id] = replace(desk.rows[broker_order_id], status="CANCELLED")

    desk.fills = fills
    with FlattenFile(tmp_path / "var", "AB1234", "local") as file:
        told: Any = desk
        told.cancel = cancel
        work = Flatten(told, file, list[str]().append, FAST, read_every_s=0.02)
        await work.run()
    assert reached == [False, False, True], "cancel under way, exit under way, exit left"
    assert last(), "and both have reached the broker by their answers"


async def test_a_lost_answer_is_found_by_its_tag_and_not_sent_again(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, fates=[OutcomeUnknown("read timeout")])
    assert (await run(desk, tmp_path / "var")).is_flat
    assert len(desk.placed) == 1


async def test_a_send_proven_absent_is_followed_by_one_with_another_tag(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, earlier(), fates=[OutcomeUnknown("read timeout")], lost_before=True)
    assert (await run(desk, tmp_path / "var")).is_flat
    assert len({request.tag for request in desk.placed}) == len(desk.placed) == 2
    assert [send.outcome for send in read_sends(tmp_path)] == [Outcome.ABSENT, Outcome.ENDED]


async def test_books_that_are_empty_prove_no_absence(tmp_path: Path) -> None:
    """Nothing was ordered today, so an answer without rows may be true, or be of a broker that has lost sight of its book."""
    desk, said = Desk({"INFY": 10}, fates=[OutcomeUnknown("read timeout")], lost_before=True), []
    assert not (await run(desk, tmp_path / "var", said)).is_flat
    assert len(desk.placed) == 1
    assert any("empty ones, which prove nothing" in words for words in said)


async def test_an_absence_that_is_not_proven_gets_no_second_send(tmp_path: Path) -> None:
    """The order is at the broker and the book hides it: sending again would turn the position."""
    desk, var = Desk({"INFY": 10}, fates=[OutcomeUnknown("read timeout")]), tmp_path / "var"
    slow = OrderDurations(absence_spacing=60, absence_after=120, look_longest=0.2, send_deadline=0.05)
    desk.rests, desk.fills = True, lambda request: 0
    with FlattenFile(var, "AB1234", "local") as file:
        work = Flatten(desk, file, lambda words: None, slow, read_every_s=0.02)
        real = desk._accept

        def hide(request: PlaceRequest) -> str:
            desk.hidden.add(request.tag)
            return real(request)

        desk._accept = hide  # type: ignore[method-assign]
        await work._close()
        for _ in range(5):
            await work._settled()
            assert await work._close() == 0
    assert len(desk.placed) == 1
    assert any("no other exit goes" in words for words in work.troubles)


@pytest.mark.parametrize("left", [True, False], ids=["after it left", "before it left"])
async def test_after_a_crash_the_tag_is_looked_up_first(tmp_path: Path, left: bool) -> None:
    desk = Desk({"INFY": 10}, earlier(), fates=[Crash()], lost_before=not left)
    with pytest.raises(Crash):
        await run(desk, tmp_path / "var")
    assert (await run(desk, tmp_path / "var")).is_flat
    assert len(desk.placed) == (1 if left else 2)
    assert sum(request.quantity for request in desk.placed if not left) in {0, 20}
    assert desk.positions_ == {"INFY": 0}


async def test_what_an_earlier_run_left_resting_is_cancelled_without_a_long_wait(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, fills=lambda request: min(request.quantity, 6), rests=True, fates=[Crash()])
    with pytest.raises(Crash):
        await run(desk, tmp_path / "var")
    said: list[str] = []
    assert (await run(desk, tmp_path / "var", said)).is_flat
    assert not any("earlier sends" in words for words in said)
    assert [request.quantity for request in desk.placed] == [10, 4]


async def test_a_part_fill_is_followed_by_an_exit_of_the_rest(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, fills=lambda request: min(request.quantity, 6))
    assert (await run(desk, tmp_path / "var")).is_flat
    assert [request.quantity for request in desk.placed] == [10, 4]


async def test_an_exit_that_rests_is_cancelled_before_the_next_one_goes(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, fills=lambda request: min(request.quantity, 6), rests=True)
    assert (await run(desk, tmp_path / "var")).is_flat
    assert desk.cancelled == ["B1"]
    assert [request.quantity for request in desk.placed] == [10, 4]


async def test_an_order_that_cannot_be_cancelled_keeps_exits_from_going_beside_it(tmp_path: Path) -> None:
    desk, said = Desk({"INFY": 10, "SBIN": 5}, {"A": row("A", "OPEN", Side.SELL, 10)}), []

    async def refuse(broker_order_id: str, *, variety: str = "regular") -> None:
        raise NotPlaced("being processed, try later", code="INPUT", retryable=False)

    desk.cancel = refuse  # type: ignore[method-assign]
    seen = await run(desk, tmp_path / "var", said)
    assert not seen.is_flat
    assert [request.tradingsymbol for request in desk.placed] == ["SBIN"]
    assert any("no exit goes beside it" in words for words in said)


async def test_a_refusal_is_told_in_the_brokers_words_and_no_loop(tmp_path: Path) -> None:
    desk, said = Desk({"INFY": 10}, fates=[NotPlaced("margin", code="MARGIN", retryable=False)] * 20), []
    assert not (await run(desk, tmp_path / "var", said)).is_flat
    assert len(desk.placed) == 1
    assert any("margin" in words for words in said)


async def test_reads_that_fail_are_tried_again(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, reads_fail=3)
    assert (await run(desk, tmp_path / "var")).is_flat


async def test_one_empty_answer_is_not_taken_for_flat(tmp_path: Path) -> None:
    """Positions come empty when it wants to close them and when it looks whether it is done."""
    desk = Desk({"INFY": 10}, empty_positions=2)
    assert (await run(desk, tmp_path / "var")).is_flat
    assert [request.quantity for request in desk.placed] == [10]
    assert desk.positions_ == {"INFY": 0}


async def test_flat_is_said_after_three_looks_that_agree(tmp_path: Path) -> None:
    desk = Desk({})
    with FlattenFile(tmp_path / "var", "AB1234", "local") as file:
        assert (await Flatten(desk, file, lambda words: None, FAST, read_every_s=0.02).see()).is_flat
    assert len(desk.asked) == 3
    assert all(later - sooner >= FAST.absence_spacing for sooner, later in itertools.pairwise(desk.asked))


async def test_a_position_that_shows_again_in_the_last_look_is_not_flat(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, empty_positions=2)
    with FlattenFile(tmp_path / "var", "AB1234", "local") as file:
        seen = await Flatten(desk, file, lambda words: None, FAST, read_every_s=0.02).see()
    assert [position.quantity for position in seen.positions] == [10]


@pytest.mark.parametrize("known", ["another order of the day", "its own order"])
async def test_after_a_crash_books_without_what_was_seen_before_prove_no_absence(tmp_path: Path, known: str) -> None:
    desk, var = Desk({"INFY": 10, "SBIN": 5}), tmp_path / "var"
    if known == "another order of the day":
        desk.rows["A"] = row("A", "COMPLETE", Side.BUY, 10, 10)
        desk.fates = [Crash()]
    else:
        desk.fates = [None, Crash()]
    with pytest.raises(Crash):
        await run(desk, var)
    desk.empty_books = 15  # for 0.3 s: the proof of an absence takes 0.15 s
    assert (await run(desk, var)).is_flat
    assert desk.positions_ == {"INFY": 0, "SBIN": 0}
    assert len(desk.placed) == 2, "the crash was after the send left: nothing goes twice"
    assert [send.outcome for send in read_sends(tmp_path)] == [Outcome.ENDED, Outcome.ENDED]


async def test_nothing_leaves_on_a_book_that_lacks_what_it_has_shown(tmp_path: Path) -> None:
    desk = Desk({"INFY": 10}, {"A": row("A", "COMPLETE", Side.BUY, 10, 10)})
    with FlattenFile(tmp_path / "var", "AB1234", "local") as file:
        work = Flatten(desk, file, lambda words: None, FAST, read_every_s=0.02)
        await work.see()
        desk.empty_books = 10_000
        with pytest.raises(FlattenStopped, match="lacks 1 orders"):
            await work.run()
    assert desk.placed == []


@pytest.mark.parametrize(("left", "sent"), [(0, [10]), (2, [10, 2]), (-3, [10, 3])])
async def test_what_somebody_closes_meanwhile_is_not_closed_again(tmp_path: Path, left: int, sent: list[int]) -> None:
    """SBIN moves while the exit of INFY is under way."""
    desk = Desk({"INFY": 10, "SBIN": 5})

    def fills(request: PlaceRequest) -> int:
        if request.tradingsymbol == "INFY":
            desk.positions_["SBIN"] = left
        return request.quantity

    desk.fills = fills
    assert (await run(desk, tmp_path / "var")).is_flat
    assert [request.quantity for request in desk.placed] == sent
    assert desk.positions_ == {"INFY": 0, "SBIN": 0}


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        FlattenFile(tmp_path, "AB1234", "local"),
        pytest.raises(StopTheStart, match="Another flatten"),
        FlattenFile(tmp_path, "AB1234", "local"),
    ):
        raise AssertionError("the second one got the file")


def test_a_torn_line_is_no_send_and_spoils_none(tmp_path: Path) -> None:
    what = {
        "exchange": Exchange.NSE, "tradingsymbol": "INFY", "instrument_token": 1, "product": Product.MIS,
        "side": Side.SELL, "quantity": 1, "deadline_s": 8.0,
    }  # fmt: skip
    with FlattenFile(tmp_path / "var", "AB1234", "local") as file:
        first = file.send(**what)  # type: ignore[arg-type]
        with file.path.open("a") as raw:
            raw.write('{"kind": "send", "tag": "TORN')
        second = file.send(**what)  # type: ignore[arg-type]
        file.outcome(second.line.tag, Outcome.SENT, broker_order_id="B1")
    found = read_sends(tmp_path)
    assert [send.line.tag for send in found] == [first.line.tag, second.line.tag]
    assert [send.outcome for send in found] == [Outcome.SENDING, Outcome.SENT]
    assert found[0].line.deadline_at - found[0].line.at == timedelta(seconds=8)


def test_no_file_is_no_sends(tmp_path: Path) -> None:
    assert read_sends(tmp_path) == []
