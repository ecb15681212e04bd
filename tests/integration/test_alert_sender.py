"""The alert-sender on the real log and database, with a local web server as its channel: told once, late but never lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids
from core.alerting import channels, policy
from core.alerts import Alerts
from core.clock import to_ist, trading_day, utc_now
from core.config import Settings
from core.errors import Transient
from core.events import topics
from core.events.payloads import Alert
from core.health import HealthReporter
from core.messaging.producer import EventProducer
from core.storage import alerts as storage
from core.storage import redis, views
from core.storage.alerts import Outcome
from core.storage.db import config_engine, view_engine
from core.storage.redis import PnlView, PortfolioStore
from core.trading.types import Broker, OrderStatus
from core.waiting import Waiting
from streams import alert_delivery, alert_sender
from streams.alert_delivery import Delivery
from streams.alert_herald import Herald
from tests.integration.messaging import producing
from tests.integration.portfolio_support import eventually, running
from tests.integration.test_portfolio_cli import run
from tests.integration.webhook import Webhook, listening
from tests.order_events import FakeJournal, make_order_event, make_order_state, make_rejected_event, make_signal

pytestmark = [pytest.mark.stack]
PAPER = Broker.PAPER


@pytest.fixture
def mark() -> str:
    return f"t{uuid4().hex[:10]}"


@pytest.fixture
async def engine(stack: Settings) -> AsyncIterator[AsyncEngine]:
    engine = config_engine(stack, pool_size=2)
    yield engine
    await engine.dispose()


@pytest.fixture(autouse=True)
def short_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute between two messages of a kind is three seconds here."""
    monkeypatch.setattr(policy, "EVERY", timedelta(seconds=3))
    monkeypatch.setattr(alert_delivery, "FIRST_BACKOFF_S", 0.2)


@asynccontextmanager
async def sending(settings: Settings, folder: Path, *hooks: Webhook, **changes: Any) -> AsyncIterator[Any]:
    """The service with these channels, until the block ends."""
    urls = " ".join(hook.url for hook in hooks)
    values = settings.model_copy(update={"alert_urls": SecretStr(urls), **changes})
    async with running("alert-sender", alert_sender.main, values, folder) as ctx:
        yield ctx


async def raise_alert(settings: Settings, kind: str, message: str, subject: str = "something") -> None:
    async with producing(settings) as producer:
        alerts = Alerts(producer, "test")
        await alerts.raise_(kind, subject, message, "do this")
        await alerts.drain()


def outcomes(row: storage.History) -> set[str]:
    return {each.state.value for each in row.told}


async def told_rows(engine: AsyncEngine, kind: str) -> list[storage.History]:
    return await storage.history(engine, kind=kind, limit=100)


async def test_an_alert_is_told_once_and_repeats_and_restarts_double_nothing(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path
) -> None:
    async with listening() as hook:
        async with sending(stack, tmp_path, hook):
            await raise_alert(stack, mark, f"{mark} first")
            await eventually(lambda: hook.holding(f"{mark} first"))
            for number in range(3):
                await raise_alert(stack, mark, f"{mark} again {number}")
            await raise_alert(stack, mark, f"{mark} first")  # the same words
            await eventually(lambda: hook.holding(f"{mark} again 0"))
        await raise_alert(stack, mark, f"{mark} while nobody sent")
        async with sending(stack, tmp_path, hook):
            await eventually(lambda: hook.holding(f"{mark} while nobody sent"))
        rows = await told_rows(engine, mark)
        ours = hook.holding(mark)
    assert [
        len([message for message in ours if words in message]) for words in ("first", "again 0", "again 1", "again 2")
    ] == [
        1,
        1,
        1,
        1,
    ]
    assert len(rows) == 6
    assert sum(row.repeats is not None for row in rows) == 1
    assert all(outcomes(row) == {"SENT"} for row in rows if row.repeats is None)
    assert f"WARNING: {mark} · Alpha Panda (local, SIMULATED)" in ours[0]


async def test_a_channel_that_fails_holds_up_no_other_and_is_told_to_once_it_works(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with listening() as good, listening(status=500) as bad, listening(silent=True, path="/s1lentpath") as mute:
        names = {hook.port: channels.AppriseChannel(hook.url).name for hook in (good, bad, mute)}
        async with sending(stack, tmp_path, good, bad, mute) as ctx:
            await raise_alert(stack, mark, f"{mark} first")
            await eventually(lambda: good.holding(f"{mark} first"), within_s=5)

            async def failing() -> list[storage.ChannelState]:
                states = await storage.channel_states(engine)
                return [each for each in states if each.channel == names[bad.port] and each.failing_since is not None]

            (state,) = await eventually(failing, within_s=30)
            assert "500" in str(state.last_error)
            await eventually(lambda: names[bad.port] in ctx.health._note)
            assert ctx.health.ready, "a channel is no part of trading"
            shown = await run("alerts", "list", "--kind", mark)
            assert f"{names[bad.port]} WAITING" in shown.stdout
            assert "FAILS since" in shown.stdout
            bad.status = 200
            await eventually(lambda: bad.holding(f"{mark} first"), within_s=30)
        (row,) = await told_rows(engine, mark)
    by_channel = {each.channel: each for each in row.told}
    assert by_channel[names[good.port]].state is Outcome.SENT
    assert by_channel[names[bad.port]].attempts > 1
    assert len(good.holding(mark)) == len(bad.holding(mark)) == 1
    said = capfd.readouterr()
    assert "s3cr3tpath" not in said.out + said.err
    kept = json.dumps(await storage.channel_states(engine), default=str) + json.dumps(row, default=str)
    assert "s3cr3tpath" not in kept
    assert "s1lentpath" not in kept


async def test_only_what_is_critical_is_told_in_quiet_hours(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path
) -> None:
    now = to_ist(utc_now())
    hours = f"{now - timedelta(minutes=5):%H:%M}-{now + timedelta(minutes=30):%H:%M}"
    async with listening() as hook:
        async with sending(stack, tmp_path, hook, alert_quiet_hours=hours):
            await raise_alert(stack, mark, f"{mark} can wait")
            await raise_alert(stack, "drift", f"{mark} cannot", subject=mark)
            await eventually(lambda: hook.holding(f"{mark} cannot"))
            assert not hook.holding(f"{mark} can wait")
            (row,) = await told_rows(engine, mark)
            assert outcomes(row) == {"WAITING"}
        async with sending(stack, tmp_path, hook):
            await eventually(lambda: hook.holding(f"{mark} can wait"))


async def test_a_crash_between_the_answer_and_its_record_tells_twice_and_never_more(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def dies(*_: object, **__: object) -> None:
        raise Killed

    async with listening() as hook:
        channel = channels.AppriseChannel(hook.url)
        await storage.begin(engine, [channel.name])
        alert = Alert(kind=mark, subject="s", message=mark, action="a", at=utc_now())
        await storage.take_in(engine, ids.new_id(), alert, "test", [channel.name])
        with monkeypatch.context() as patch:
            patch.setattr(storage, "settle", dies)
            with pytest.raises(Killed):
                await make_delivery(engine, channel, tmp_path).step(asyncio.Event())
        assert len(hook.holding(mark)) == 1
        for _ in range(3):
            await make_delivery(engine, channel, tmp_path).step(asyncio.Event())
        assert len(hook.holding(mark)) == 2
    (row,) = await told_rows(engine, mark)
    assert [(each.state, each.attempts) for each in row.told] == [(Outcome.SENT, 2)]


def make_delivery(engine: AsyncEngine, channel: channels.Channel, folder: Path) -> Delivery:
    async def none(_: object) -> list[policy.Waiting]:
        return []

    async def unheard(*_: object) -> None:
        raise AssertionError("the channel does not fail")

    parts = Waiting(HealthReporter("test", folder))
    return Delivery(engine, channel, quiet=None, where="here", parts=parts, cleared=none, failing=unheard)


async def test_an_order_answered_within_ten_seconds_is_not_told(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "UNKNOWN_FOR", timedelta(seconds=4))
    paper = view_engine(stack, PAPER)
    answered, silent = (make_signal(strategy_id=mark, name=f"{mark}{n}") for n in "ab")
    states = {
        "answered": make_order_state(answered, OrderStatus.SUBMITTED),
        "silent": make_order_state(silent, OrderStatus.UNKNOWN),
    }
    for state in states.values():
        await views.store(paper, make_order_event(PAPER, state, 1))
    async with listening() as hook:
        async with sending(stack, tmp_path, hook):
            for name, state in states.items():
                await raise_alert(stack, "order_unknown", f"{mark} {name}", subject=str(state.order_id))
            await eventually(lambda: hook.holding(f"{mark} silent"))
        assert not hook.holding(f"{mark} answered")
    rows = {row.message: outcomes(row) for row in await told_rows(engine, "order_unknown") if mark in row.message}
    assert rows == {f"{mark} silent": {"SENT"}, f"{mark} answered": {"CLEARED"}}
    await paper.dispose()


async def test_fills_late_rejections_and_loss_limits_on_the_log_become_alerts_once(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path
) -> None:
    old = FakeJournal().fill(
        strategy_id=mark, name=f"{mark}o", charges=Decimal("1.5")
    )  # of a day long past, as rebuild-log gives
    fill = FakeJournal().fill(strategy_id=mark, name=mark).model_copy(update={"ts": utc_now()})
    at_the_broker = make_order_state(
        make_signal(strategy_id=mark, name=f"{mark}r"), OrderStatus.REJECTED, broker_order_id="B1", reason="margin"
    )
    at_the_door = make_order_state(
        make_signal(strategy_id=mark, name=f"{mark}d"), OrderStatus.REJECTED, broker_order_id=None, reason="closed"
    )
    refused = [make_signal(strategy_id=mark, name=f"{mark}{n}") for n in "xyz"]
    async with listening() as hook, sending(stack, tmp_path, hook), producing(stack) as producer:
        for event in (old, fill, fill.model_copy(update={"source": "redelivered"})):
            await producer.send(topics.orders_event(PAPER, "filled"), event)
        for state in (at_the_broker, at_the_door):
            await producer.send(topics.orders_event(PAPER, "rejected"), make_order_event(PAPER, state, 3, ts=utc_now()))
        for signal, code in zip(refused, ("DAY_LOSS", "DAY_LOSS", "LOT_SIZE"), strict=True):
            event = make_rejected_event(PAPER, signal, code)
            data = event.data.model_copy(update={"decided_at": utc_now()})
            await producer.send(topics.signals_rejected(PAPER), event.model_copy(update={"data": data}))
        for words in ("then rejected: margin", "entries are refused", " filled at ₹"):
            await eventually(lambda words=words: [each for each in hook.holding(mark) if words in each])  # type: ignore[misc]
    rows = [
        row
        for kind in ("order_filled", "order_rejected", "loss_limit")
        for row in await storage.history(engine, kind=kind, limit=200)
        if mark in row.message
    ]
    assert sorted((row.kind, *outcomes(row)) for row in rows) == [
        ("loss_limit", "SENT"),
        ("order_filled", "FAILED"),
        ("order_filled", "SENT"),
        ("order_rejected", "SENT"),
    ]


async def test_a_loss_at_its_limit_is_told_once_whether_or_not_an_entry_is_refused(
    stack: Settings, engine: AsyncEngine, mark: str, tmp_path: Path
) -> None:
    instance, connection = f"{mark}@paper", redis.client(stack)

    def view(name: str, strategy: str | None, net: str) -> PnlView:
        money = dict.fromkeys(
            ("realized_pnl", "gross_pnl", "net_pnl", "day_realized_pnl", "day_gross_pnl", "day_net_pnl"), net
        )
        more = {
            "unrealized_pnl": 0,
            "charges": 0,
            "day_charges": 0,
            "open_positions": 1,
            "unmarked": 0,
            "simulated": True,
        }
        named = {"instance": name, "strategy_id": strategy, "trading_day": trading_day(utc_now()), "as_of": utc_now()}
        return PnlView.model_validate(money | more | named)

    store = PortfolioStore(connection, PAPER)
    await store.replace(
        mark, [], [view(instance, mark, "-6000"), view(f"{mark}b@paper", mark, "-1"), view("*", None, "-6001")], {}
    )
    refused = make_rejected_event(PAPER, make_signal(strategy_id=mark, name=mark), "DAY_LOSS")
    data = refused.data.model_copy(update={"decided_at": utc_now()})
    async with listening() as hook:
        async with sending(stack, tmp_path, hook), producing(stack) as producer:
            await eventually(lambda: hook.holding(f"{instance} has lost ₹6000.00 today"))
            await producer.send(topics.signals_rejected(PAPER), refused.model_copy(update={"data": data}))
            await raise_alert(stack, mark, f"{mark} after it")
            await eventually(lambda: hook.holding(f"{mark} after it"))
        async with sending(stack, tmp_path, hook):
            await raise_alert(stack, mark, f"{mark} at the end")
            await eventually(lambda: hook.holding(f"{mark} at the end"))
    rows = [row for row in await storage.history(engine, kind="loss_limit", limit=200) if mark in row.subject]
    assert [row.subject for row in rows] == [instance]
    await connection.aclose()


async def test_what_is_critical_is_told_without_the_database_and_not_again_with_it(
    stack: Settings, engine: AsyncEngine, mark: str
) -> None:
    away = config_engine(stack.model_copy(update={"postgres_port": 1}), pool_size=1)
    async with listening() as hook:
        channel = channels.AppriseChannel(hook.url)
        producer = EventProducer(stack, client_id="test")
        alerts = Alerts(producer, "alert-sender")
        herald = Herald(away, alerts, "alert-sender", [channel], "here", lambda: None)
        await herald.raise_("not_ready", mark, f"{mark} no database", "look")
        await herald.raise_("not_ready", mark, f"{mark} within the minute", "look")
        await herald.raise_("strategy_failed", mark, f"{mark} can wait", "look")
        assert len(hook.holding(mark)) == 1
        with pytest.raises(Transient):
            await herald.catch_up()
        herald._engine = engine
        await herald.catch_up()
        await herald.catch_up()
        await alerts.drain()
        await producer.stop()
        assert len(hook.holding(mark)) == 1
    rows = [row for row in await storage.history(engine, limit=100) if row.subject == mark]
    states = {row.message.removeprefix(f"{mark} "): outcomes(row) for row in rows}
    assert states == {"no database": {"SENT"}, "within the minute": {"WAITING"}, "can wait": {"WAITING"}}
    await away.dispose()


async def test_what_waits_for_a_channel_that_is_gone_is_given_up(engine: AsyncEngine, mark: str) -> None:
    alert = Alert(kind=mark, subject="s", message="m", action="a", at=utc_now())
    await storage.take_in(engine, ids.new_id(), alert, "test", [f"json-{mark}"])
    await storage.begin(engine, ["json-other"])
    (row,) = await told_rows(engine, mark)
    assert [(each.state, each.error) for each in row.told] == [
        (Outcome.FAILED, "its channel is no longer in ALERT_URLS")
    ]


async def test_an_alert_of_the_day_before_yesterday_is_history_and_not_told(engine: AsyncEngine, mark: str) -> None:
    old = Alert(kind=mark, subject="s", message="m", action="a", at=utc_now() - timedelta(hours=25))
    await storage.take_in(engine, ids.new_id(), old, "test", ["json-x"])
    (row,) = await told_rows(engine, mark)
    assert outcomes(row) == {"FAILED"}
    assert await storage.waiting(engine, "json-x") == []


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (404, "failed"), (302, "failed")])
async def test_the_heartbeat_is_one_question_whose_address_is_in_no_log(
    status: int, outcome: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from core import metrics

    before = metrics.heartbeats.labels(outcome)._value.get()
    async with listening(status=status) as hook, httpx.AsyncClient(follow_redirects=False) as client:
        await alert_sender.ping(client, f"http://127.0.0.1:{hook.port}/ping/s3cr3tpath")
        assert hook.asked == ["GET /ping/s3cr3tpath HTTP/1.1"]
        await client.aclose()
    async with httpx.AsyncClient() as client:
        await alert_sender.ping(client, "http://127.0.0.1:1/ping/s3cr3tpath")
    assert metrics.heartbeats.labels(outcome)._value.get() >= before + 1
    said = capfd.readouterr()
    assert "s3cr3tpath" not in said.out + said.err


async def test_a_redirect_of_a_channel_is_not_followed() -> None:
    async with listening(status=307) as hook:
        with pytest.raises(channels.ChannelFailed):
            await channels.AppriseChannel(hook.url).send("t", "b", policy.severity_of("test"))
        assert len(hook.asked) == 1


async def test_the_test_command_says_which_channel_works(
    stack: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = await run("alerts", "test")
    assert none.exit_code == 1
    assert "ALERT_URLS names no channel" in none.stderr
    async with listening() as good, listening(status=403) as bad:
        monkeypatch.setenv("ALERT_URLS", f"{good.url} {bad.url}")
        tested = await run("alerts", "test", "--json")
        rows = {each["channel"]: each["error"] for each in json.loads(tested.stdout)}
        assert tested.exit_code == 1
        assert rows[channels.AppriseChannel(good.url).name] is None
        assert "403" in rows[channels.AppriseChannel(bad.url).name]
        assert "s3cr3tpath" not in tested.stdout + tested.stderr
        assert len(good.messages) == 1
    listed = json.loads((await run("alerts", "list", "--kind", "test", "--json")).stdout)
    assert {each["state"] for each in listed["alerts"][0]["told"]} == {"SENT", "FAILED"}
