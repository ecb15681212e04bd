"""What the alert-sender finds out by itself, and in which words a person hears of it: every kind nobody else raises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import health
from core.alerting import kinds
from core.events.payloads import Denial
from core.health import Health
from core.storage.kill import KillState
from core.trading.risk import AccountLimits, Limits, RiskLimits
from core.trading.risk.exposure_rules import DayLoss
from core.trading.risk.facts import DayPnl
from core.trading.types import Broker
from streams import alert_watch
from streams.alert_herald import Herald
from streams.alert_watch import AlertWatch
from tests.order_events import make_rejected_event, make_signal
from tests.strategy_world import make_settings

NOON = datetime(2026, 11, 23, 6, 30, tzinfo=UTC)
"""12:00 IST of a Monday that is a trading day."""


class Ear(Herald):
    """Hears what would be raised, each cause once."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.causes: set[object] = set()

    async def raise_(self, kind: str, subject: str, message: str, action: str, *, cause: Any = None) -> None:
        assert action
        if cause is None or cause not in self.causes:
            self.causes.add(cause)
            self.heard.append((kind, subject, message))

    async def raise_stored(
        self, kind: str, subject: str, message: str, action: str, *, cause: Any, at: datetime
    ) -> None:
        assert at.tzinfo is not None
        await self.raise_(kind, subject, message, action, cause=cause)

    async def catch_up(self) -> None: ...

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.heard]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON
        monkeypatch.setattr(alert_watch, "utc_now", lambda: self.now)

    def on(self, **later: float) -> None:
        self.now += timedelta(**later)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the watch remembers is in the home folder."""
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make_watch(**settings: Any) -> tuple[AlertWatch, Ear]:
    ear = Ear()
    return AlertWatch(make_settings(**settings), ear, None, {Broker.PAPER: None}, None), ear  # type: ignore[arg-type, dict-item]


def test_every_kind_that_is_raised_here_is_grave_enough_to_be_read() -> None:
    assert {"feed_mute", "not_ready", "kill_engaged", "loss_limit"} <= kinds.CRITICAL
    assert "login_due" not in kinds.INFO | kinds.CRITICAL


async def test_a_login_that_is_due_is_told_twice_a_day_and_not_once_there_is_one(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    session: list[object] = [None]
    monkeypatch.setattr(alert_watch, "load_session", lambda _: session[0])
    watcher, ear = make_watch(kite_target="zerodha-sandbox")
    clock.now = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)  # 08:30 IST
    for _ in range(3):
        await watcher.look_at_session()
        clock.on(minutes=1)
    assert ear.kinds == ["login_due"]
    clock.on(minutes=40)
    await watcher.look_at_session()
    session[0] = object()
    clock.on(minutes=10)
    await watcher.look_at_session()
    assert ear.kinds == ["login_due", "login_due"]
    assert "No valid Zerodha session for 23 Nov" in ear.heard[0][2]


async def test_dead_letters_are_told_when_there_are_more_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    depths = iter([{"a.dlq": 0}, {"a.dlq": 2}, {"a.dlq": 2}, {"a.dlq": 1}, {"a.dlq": 3, "b.dlq": 1}])

    async def depth(*_: object) -> dict[str, int]:
        return next(depths)

    monkeypatch.setattr(alert_watch, "dlq_depth", depth)
    watcher, ear = make_watch()
    for _ in range(5):
        await watcher.look_at_letters()
    assert [(kind, subject) for kind, subject, _ in ear.heard] == [
        ("dlq_not_empty", "a.dlq"),
        ("dlq_not_empty", "a.dlq"),
        ("dlq_not_empty", "b.dlq"),
    ]


async def test_a_kill_flag_is_told_when_it_is_set_and_when_it_is_lifted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [KillState("prices", {"s1": "odd"}, ()), KillState("prices", {}, ()), KillState(None, {}, ())]

    async def state(*_: object) -> KillState:
        return states[0]

    monkeypatch.setattr(alert_watch, "kill_state", state)
    watcher, ear = make_watch()
    while states:
        await watcher.look_at_kill_flags()
        await watcher.look_at_kill_flags()
        del states[0]
    assert sorted(ear.heard[:2]) == [
        ("kill_engaged", "paper", "The kill switch is on for paper: prices"),
        ("kill_engaged", "s1 (paper)", "The kill switch is on for s1 (paper): odd"),
    ]
    assert [(kind, subject) for kind, subject, _ in ear.heard[2:]] == [
        ("kill_released", "s1 (paper)"),
        ("kill_released", "paper"),
    ]


async def test_readiness_restarts_and_a_mute_feed_are_told_from_what_the_processes_say(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    watcher, ear = make_watch()
    said = {name: Health(name, True, "", 1, 1.0, started_at=1.0) for name in watcher._expected}
    monkeypatch.setattr(alert_watch, "health", SimpleNamespace(read_all=lambda _: said))

    async def for_seconds(seconds: int) -> list[str]:
        before = len(ear.heard)
        for _ in range(seconds):
            await watcher.look_at_health()
            clock.on(seconds=1)
        return [f"{kind} {subject}" for kind, subject, _ in ear.heard[before:]]

    assert await for_seconds(10) == ["ready system"]
    said["portfolio"] = Health("portfolio", True, "", 2, 1.0, started_at=9.0)
    assert await for_seconds(5) == ["process_restarted portfolio"]
    down = "the market data connection is down"
    said["market-feed"] = Health("market-feed", False, f"kite: {down}", 1, 1.0, {"kite": down}, started_at=1.0)
    assert await for_seconds(5) == []
    assert await for_seconds(1) == ["feed_mute market-feed"]
    assert await for_seconds(60) == ["not_ready system"]
    assert down in ear.heard[-1][2]


def test_a_memory_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "var" / "run").mkdir(parents=True)
    (tmp_path / "var" / "run" / "alert-watch.json").write_text("{")
    watcher, _ = make_watch()
    assert (watcher._memory.ready, watcher._memory.kills) == (None, {})
    assert health.read_all(tmp_path) == {}


@pytest.mark.parametrize(
    ("net", "unmarked", "told"), [("-6000", (), True), ("-6000", ("NSE:TCS",), True), ("-1", ("NSE:TCS",), False)]
)
async def test_a_refusal_for_a_loss_is_told_and_one_for_a_missing_price_is_not(
    net: str, unmarked: tuple[str, ...], told: bool
) -> None:
    limits = Limits(RiskLimits(), AccountLimits())
    facts = SimpleNamespace(day=DayPnl(realized=Decimal(net), unmarked=unmarked), account_day=DayPnl(unmarked=unmarked))
    signal = make_signal()
    words = DayLoss().check(signal, facts, limits)  # type: ignore[arg-type]
    assert words is not None
    refused = make_rejected_event(Broker.PAPER, signal, "DAY_LOSS")
    data = refused.data.model_copy(update={"denials": (Denial(code="DAY_LOSS", message=words),)})
    watcher, ear = make_watch()
    await watcher.on_event(refused.model_copy(update={"data": data}), Broker.PAPER)
    assert [(kind, subject) for kind, subject, _ in ear.heard] == ([("loss_limit", signal.instance)] if told else [])
