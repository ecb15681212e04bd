"""Every page is built from plain facts, without a browser or a stack: what it says of them, of missing ones, and of what is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from nicegui import Client, core, ui
from nicegui.element import Element

from api.hub import EventHub, Listener
from api.models import (
    BrokerPnl,
    InstanceStatus,
    OrderDetail,
    OrderPage,
    OrderSummary,
    Part,
    PnlReport,
    Position,
    PositionList,
    ReconciliationList,
    Strategy,
    StrategyList,
    TimelineEvent,
    TopicStatus,
)
from api.pages import alerts, charts, positions, risk, strategies, streams, today
from api.pages import order as order_page
from api.pages.desk import Desk
from api.pages.facts import Budget, FeedAge
from api.pages.live import Live, Source
from api.pages.parts import Table
from api.routers import alert_channels
from api.routers.alert_channels import Channels
from api.routers.operations import DeadLetters, KillStates
from api.routers.reports import PnlCurve
from core.brokers.kite_http import Candle
from core.clock import utc_now
from core.errors import Transient
from core.people.roles import Actor, Role, Scope
from core.storage.alerts import Outcome
from core.storage.redis import PnlView
from core.storage.risk_config import RiskConfig
from core.storage.risk_use import LimitUse
from core.storage.views import StoredEvent
from core.trading.types import Broker, KiteTarget, OrderStatus, Product
from tests.order_events import make_order_state, make_signal
from tests.unit.test_pages_live import until

DAY = date(2026, 11, 23)
NOW = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
SWING = "swing@paper"


def pnl_view(instance: str, net: str) -> PnlView:
    money = dict.fromkeys(("realized_pnl", "unrealized_pnl", "gross_pnl", "charges", "net_pnl"), Decimal(net))
    day = dict.fromkeys(("day_realized_pnl", "day_gross_pnl", "day_charges", "day_net_pnl"), Decimal(net))
    return PnlView.model_validate(
        {"instance": instance, "strategy_id": "swing", "trading_day": DAY, "open_positions": 1, "unmarked": 0}
        | {"as_of": NOW, "simulated": True} | money | day
    )  # fmt: skip


def position(**changes: Any) -> Position:
    values = {
        "broker": Broker.PAPER, "instance": SWING, "strategy_id": "swing", "account": "ACC", "instrument": "NSE:INFY",
        "instrument_token": 408065, "exchange": "NSE", "tradingsymbol": "INFY", "product": Product.MIS, "quantity": 450,
        "average_price": Decimal("1500"), "last_price": Decimal("1510"), "marked_at": NOW, "realized_pnl": Decimal(0),
        "unrealized_pnl": Decimal(4500), "gross_pnl": Decimal(4500), "charges": Decimal(30), "net_pnl": Decimal(4470),
        "trading_day": DAY, "day_realized_pnl": Decimal(0), "day_charges": Decimal(30), "day_net_pnl": Decimal(4470),
        "fills": 1, "updated_at": NOW, "simulated": True,
    }  # fmt: skip
    return Position.model_validate(values | changes)


def strategy(**runtime: Any) -> Strategy:
    said = {"state": "running"} | runtime
    one = InstanceStatus(
        instance=SWING, broker=Broker.PAPER, target="paper", active=True, reason="", state=said["state"], runtime=said
    )
    return Strategy(
        strategy_id="swing", class_name="Momentum", active=True, version=3, parameters={"fast": 2}, opt_ins={},
        instruments=["NSE:INFY"], product=Product.MIS, age_limit_s=5, capital=Decimal(100_000), instances=[one],
    )  # fmt: skip


def unknown_order() -> OrderSummary:
    return OrderSummary.of(Broker.PAPER, make_order_state(make_signal(), OrderStatus.UNKNOWN), simulated=True)


def facts() -> dict[str, Any]:
    """A quiet day with one position."""
    pnl = BrokerPnl(broker=Broker.PAPER, total=pnl_view("*", "-4000"), instances=[pnl_view(SWING, "-4000")])
    return {
        "sessions": None,
        "parts": (Part(name="kafka", kind="server", ready=True, reason=""),),
        "feed": FeedAge(utc_now(), 0),
        "session": SimpleNamespace(valid=True, user_id="AB1234", target="local", expires_at=NOW),
        "pnl": PnlReport(simulated=True, brokers=[pnl]),
        "positions": PositionList(simulated=True, positions=[position()]),
        "strategies": StrategyList(simulated=True, runtime="known", strategies=[strategy()]),
        "limits": RiskConfig(),
        "limit use": {Broker.PAPER: {SWING: LimitUse(open_orders=5, entries=7)}},
        "in doubt": OrderPage(orders=[], next=None),
        "curve": PnlCurve(trading_day=DAY, simulated=True, points=[], marks=[]),
        "rounds": ReconciliationList(simulated=True, rounds=[]),
        "kill": KillStates(brokers=[]),
        "budget": {Broker.PAPER: Budget(12, None)},
        "channels": Channels(channels=[], trouble=[]),
        "streams": SimpleNamespace(
            topics=[
                TopicStatus(topic="market.ticks", partitions=4, end_offset=100_000, lag={"alpha-panda.x": 250}, dlq=1)
            ]
        ),
        "letters": DeadLetters(letters=[]),
        "alerts": object(),
        "chart": object(),
        "order events": object(),
    }


class Silent:
    """A hub where nothing happens."""

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        yield Listener(())

    def alerts(self) -> list[Any]:
        return []


@dataclass
class Room:
    """A page with these facts, as one person sees it."""

    facts: dict[str, Any] = field(default_factory=facts)
    role: Role = Role.ADMIN
    desks: set[Desk] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.settings = SimpleNamespace(
            active_brokers=(Broker.PAPER,), kite_target=KiteTarget.LOCAL, simulated=True, real_money=False
        )
        sources = {name: Source(self._reading(name), (), 60.0) for name in self.facts}
        self.live = Live(cast(EventHub, Silent()), sources, self._rest)
        self.client = Client(ui.page("/"))
        self.hub = Silent()
        self.links = SimpleNamespace(settings=SimpleNamespace(active_brokers=()))
        self.reads: Any = None
        self.bars: Any = None

    def _reading(self, name: str) -> Callable[[], Awaitable[Any]]:
        async def read() -> Any:
            value = self.facts[name]
            if isinstance(value, Exception):
                raise value
            return value

        return read

    async def _rest(self) -> None:
        """Nothing is held."""

    async def show(self, page: Any, **path: str) -> Desk:
        actor = Actor(
            "meera", self.role, "session", "here", scopes=frozenset(Scope), session_id=uuid4(), user_id=uuid4()
        )
        request = SimpleNamespace(query_params={}, path_params=path, url=SimpleNamespace(path="/room/"))
        with self.client:
            desk = Desk(cast(Any, self), actor, cast(Any, request), self.client)
            await page.build(desk)
        return desk

    async def again(self, **changed: Any) -> None:
        """The facts change, and who follows them is shown."""
        self.facts |= changed
        for name in changed:
            fact = self.live._facts[name]
            await fact.read(fact.read_at)
            assert fact.seen is not None
            for shown in fact.watchers.values():
                shown(fact.seen)

    def elements(self) -> list[Element]:
        return list(self.client.elements.values())

    def tables(self) -> list[list[dict[str, Any]]]:
        return [each._props["rows"] for each in self.elements() if isinstance(each, Table)]

    def rows(self, label: str) -> dict[str, list[dict[str, Any]]]:
        """Cells by the row's key."""
        (found,) = [each for each in self.elements() if isinstance(each, Table) and each._props["label"] == label]
        return {row["key"]: row["cells"] for row in found._props["rows"]}

    @property
    def text(self) -> str:
        """All that is shown, and what tables say."""
        rows = [str(each._text) for each in self.elements() if each._text and "hidden" not in each.classes]
        for each in self.elements():
            if isinstance(each, Table):
                rows += [str(cell) for row in each._props["rows"] for cell in row["cells"]] or [each._props["empty"]]
        return "\n".join(rows)

    def dimmed(self) -> bool:
        return any("old" in each.classes for each in self.elements())

    async def close(self) -> None:
        await self.live.close()
        self.client.delete()


@pytest.fixture(autouse=True)
def nicegui_loop() -> Iterator[None]:
    core.loop = None
    yield
    core.loop = None


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    core.loop = asyncio.get_running_loop()
    made = Room()
    yield made
    await made.close()


async def test_today_says_that_nothing_needs_anybody(room: Room) -> None:
    await room.show(today.PAGE)
    for said in (
        "Nothing needs you.",
        "−₹4,000.00",
        "INFY +450",
        "all 1 ready",
        "paper: no limit (12 sent)",
        "Not engaged.",
    ):
        assert said in room.text
    assert "reach nobody" in room.text, "without a channel nobody hears of anything"
    assert not room.dimmed()


@pytest.mark.parametrize(
    ("fact", "value", "said"),
    [
        ("in doubt", OrderPage(orders=[unknown_order()], next=None), "UNKNOWN: BUY 10 NSE:INFY"),
        ("session", SimpleNamespace(valid=False), "log in at the broker"),
        ("parts", (Part(name="kafka", kind="server", ready=False, reason="no answer"),), "kafka: no answer"),
        ("channels", Channels(channels=[], trouble=["The alert channel json-1 takes no message"]), "takes no message"),
        (
            "strategies",
            StrategyList(simulated=True, runtime="known", strategies=[strategy(state="failed", reason="KeyError")]),
            "swing@paper failed: KeyError",
        ),
        ("in doubt", Transient("PostgreSQL is away"), "Orders are not known: PostgreSQL is away"),
    ],
)
async def test_what_needs_a_person_is_a_line_on_today(room: Room, fact: str, value: Any, said: str) -> None:
    room.facts[fact] = value
    await room.show(today.PAGE)
    assert said in room.text
    assert "Nothing needs you." not in room.text


async def test_prices_that_stop_are_told_though_no_tick_says_so(room: Room) -> None:
    await room.show(today.PAGE)
    assert "arriving; the newest is 0 s old" in room.text
    await room.again(feed=FeedAge.of(NOW, NOW + timedelta(seconds=12)))
    assert "none for 12.0 s; the last at" in room.text


async def test_what_was_never_read_is_no_nought(room: Room) -> None:
    room.facts |= {"positions": Transient("Redis is away"), "pnl": Transient("Redis is away")}
    await room.show(today.PAGE)
    assert "These figures are old: Redis is away" in room.text
    assert "flat" not in room.text
    assert "₹0.00" not in room.text


@pytest.mark.parametrize(
    ("page", "fact"), [(today, "pnl"), (positions, "positions"), (risk, "pnl"), (streams, "streams")]
)
async def test_figures_that_are_old_are_dimmed_and_said_to_be(room: Room, page: Any, fact: str) -> None:
    await room.show(page.PAGE)
    before = room.text
    assert not room.dimmed()
    await room.again(**{fact: Transient("it is away")})
    assert room.dimmed()
    assert "These figures are old: it is away" in room.text
    await room.again(**{fact: facts()[fact]})
    assert (room.text, room.dimmed()) == (before, False)


async def test_limits_stand_against_their_use(room: Room) -> None:
    await room.show(risk.PAGE)
    of_strategy = {str(cell["text"]): cell.get("more") for cell in room.rows("Limits")["strategy:swing|paper"]}
    assert of_strategy["₹4,000.00 of ₹5,000.00"] == "near"
    assert of_strategy["5 of 5"] == "reached"
    assert of_strategy["7 of 100"] is None
    assert of_strategy["450 of 500"] == "near"
    assert room.rows("Limits")["account:paper"][3]["text"] == "5 of 50"


async def test_a_position_is_left_by_those_who_may(room: Room) -> None:
    await room.show(positions.PAGE)
    (cells,) = room.rows("Open positions").values()
    assert [cell["text"] for cell in cells[3:7]] == ["+450", "1,500.00", "1,510.00", "+₹4,500.00"]
    assert cells[-1]["acts"][0]["aria"] == "Exit NSE:INFY of swing@paper"


async def test_a_viewer_is_offered_nothing_to_press(room: Room) -> None:
    room.role = Role.VIEWER
    for page in (positions, strategies, risk, streams, today):
        await room.show(page.PAGE)
    acts = [
        act["name"] for table in room.tables() for row in table for cell in row["cells"] for act in cell.get("acts", ())
    ]
    assert set(acts) <= {"show"}
    shown = [str(each._text) for each in room.elements() if each.tag == "button" and "hidden" not in each.classes]
    assert shown == []


async def test_who_is_far_behind_is_said_in_words(room: Room) -> None:
    await room.show(streams.PAGE)
    (cells,) = room.rows("Topics").values()
    assert [cell["text"] for cell in cells] == ["market.ticks", "4", "1,00,000", "250", "x 250", "1"]
    assert cells[3]["more"] == "far behind"


# lists and charts: what they read is told --------------------------------------------------------------------------------


async def test_alerts_tell_channels_and_who_was_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    async def history(_: Any, **wanted: Any) -> alert_channels.AlertPage:
        asked.append(wanted)
        told = [alert_channels.Telling(channel="json-1", state=Outcome.SENT, attempts=1, error=None, ended_at=NOW)]
        row = alert_channels.ToldAlert(
            alert_id=uuid4(), kind="order_filled", subject="swing", message="filled", action="Nothing.", source="x",
            at=NOW, repeats=None, told=told,
        )  # fmt: skip
        return alert_channels.AlertPage(alerts=[row], next=None)

    monkeypatch.setattr(alert_channels, "history", history)
    await room.show(alerts.PAGE)
    assert alerts.NO_CHANNEL in room.text
    (cells,) = room.rows("Alerts").values()
    assert [cell["text"] for cell in cells[1:]] == ["order filled", "swing", "filled", "Nothing.", "json-1 sent"]
    assert asked[0]["cursor"] is None


async def test_an_order_shows_its_steps_and_that_the_journal_is_away(room: Room) -> None:
    signal = make_signal(origin_at=NOW)
    order = OrderSummary.of(Broker.PAPER, make_order_state(signal, OrderStatus.UNRESOLVED), simulated=True)
    steps = [
        TimelineEvent(
            event_id=uuid4(), at=NOW + timedelta(milliseconds=millis), type="x", order_seq=None, text=text, data={}
        )
        for millis, text in ((12, "risk accepted the signal"), (3412, "a person must decide"))
    ]
    detail = OrderDetail(
        order=order, account="ACC", target="paper", exchange="NSE", tradingsymbol="INFY", instrument_token=1, signal=signal,
        decision=None, sends=[], fills=[], events=steps, workflow_id="w", temporal_url="http://temporal/w",
    )  # fmt: skip

    async def read(_: Any) -> OrderDetail:
        return detail

    room.reads = SimpleNamespace(order=read)
    await room.show(order_page.PAGE, order_id=str(order.order_id))
    for said in (
        "the tick it began with came in",
        "+12 ms",
        "+3.4 s",
        "a person must decide",
        "The journal cannot be read",
    ):
        assert said in room.text
    offered = [str(each._text) for each in room.elements() if each.tag == "button" and "hidden" not in each.classes]
    assert offered == ["Cancel …", "Resolve …"]


async def test_a_chart_whose_history_is_away_says_so_and_keeps_what_we_did(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = {"filled_at": NOW.isoformat(), "quantity": 10, "price": "1500"}
    order = {"instrument": "NSE:INFY", "side": "BUY", "intent": "ENTRY", "instance": SWING, "order_id": "o1"}
    event = StoredEvent(uuid4(), "order.filled", NOW, 1, uuid4(), {"order": order, "fill": fill})

    async def bars(*_: str) -> list[Candle]:
        if room.facts["feed"] is None:
            raise Transient("the broker is away")
        return [Candle(NOW, *(Decimal(1500),) * 4, 100)]

    async def fills(*_: Any) -> list[StoredEvent]:
        return [event]

    async def orders(*_: Any, **__: Any) -> OrderPage:
        return OrderPage(orders=[], next=None)

    monkeypatch.setattr(charts.views, "fills_of_day", fills)
    room.bars = SimpleNamespace(bars=bars)
    room.reads = SimpleNamespace(orders=orders, brokers=lambda _: (Broker.PAPER,), views=lambda _: None)
    desk = await room.show(charts.PAGE)
    assert "Last 1,500.00 in the bar of 23 Nov 09:30, 1 bars, 1 of 1 fills of today drawn" in room.text
    (cells,) = room.rows("Our fills today").values()
    assert [cell["text"] for cell in cells[1:]] == ["entry, bought", "10", "1,500.00", SWING]
    room.facts["feed"] = None
    await room.again(chart=object())
    await until(lambda: "The broker's history cannot be read: the broker is away" in room.text)
    assert room.dimmed()
    desk.end()
