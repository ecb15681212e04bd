"""When an alert is told and in what words, how a channel is called, what the processes' words come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.setup import ensure_env
from core.alerting import channels, policy, watch
from core.alerting.channels import AppriseChannel, ChannelFailed, without_secrets
from core.alerting.kinds import CRITICAL, INFO, Severity, severity_of
from core.alerting.policy import Bundle, QuietHours, Waiting, body, due, title
from core.config import Settings, load_settings
from core.errors import ConfigError
from core.health import Health
from core.trading.calendar import AlwaysOpen, ExchangeCalendar

NOON = datetime(2026, 11, 23, 6, 30, tzinfo=UTC)
"""12:00 IST of a Monday that is a trading day."""
NIGHT = QuietHours.parse("22:00-07:00")
MIDNIGHT = NOON + timedelta(hours=12)


def make_alert(
    kind: str = "order_filled", at: datetime = NOON, message: str = "a message", **changes: object
) -> Waiting:
    values: dict[str, object] = {"subject": "s", "action": "do this"} | changes
    return Waiting(uuid4(), kind, message=message, at=at, **values)  # type: ignore[arg-type]


def test_one_message_a_kind_holds_all_that_waits() -> None:
    alerts = [make_alert(at=NOON + timedelta(seconds=n), message=f"fill {n}") for n in range(8)]
    (bundle,) = due(alerts[::-1], {}, None, NOON + timedelta(seconds=10))
    assert bundle.lead.message == "fill 0"
    text = body(bundle)
    assert "and 7 more:" in text
    assert "fill 5" in text
    assert "fill 6" not in text
    assert "2 of them only in `alpha-panda alerts list`" in text


@pytest.mark.parametrize(("seconds", "told"), [(0, False), (59, False), (60, True), (3600, True)])
def test_a_kind_is_told_at_most_once_a_minute(seconds: int, told: bool) -> None:
    now = NOON + timedelta(seconds=seconds)
    assert bool(due([make_alert()], {"order_filled": NOON}, None, now)) is told
    assert due([make_alert("drift")], {"order_filled": NOON}, None, now), "another kind does not wait for it"


@pytest.mark.parametrize("kind", ["order_filled", "strategy_failed", "drift", "unheard_of"])
def test_only_critical_kinds_break_through_quiet_hours(kind: str) -> None:
    told = due([make_alert(kind, at=MIDNIGHT)], {}, NIGHT, MIDNIGHT)
    assert bool(told) is (kind in CRITICAL)
    assert due([make_alert(kind, at=MIDNIGHT)], {}, NIGHT, MIDNIGHT + timedelta(hours=7)), "told when they end"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [("22:00-07:00", ["22:00", "23:59", "00:00", "06:59"], ["07:00", "21:59"]), ("13:00-14:00", ["13:00"], ["14:00"])],
)
def test_quiet_hours_are_ist_and_may_span_midnight(hours: str, inside: list[str], outside: list[str]) -> None:
    quiet = QuietHours.parse(hours)
    assert quiet is not None
    for wall, so in [(each, True) for each in inside] + [(each, False) for each in outside]:
        hour, minute = map(int, wall.split(":"))
        moment = datetime(2026, 11, 23, hour, minute, tzinfo=UTC) - timedelta(hours=5, minutes=30)
        assert quiet.holds(moment) is so, wall


@pytest.mark.parametrize("text", ["22:00", "25:00-07:00", "22:00-22:00", "night"])
def test_other_quiet_hours_are_refused_with_what_is_right(text: str) -> None:
    with pytest.raises(ValueError, match="22:00-07:00"):
        QuietHours.parse(text)


def test_an_order_without_an_answer_is_told_after_ten_seconds() -> None:
    alert = make_alert("order_unknown")
    assert due([alert], {}, None, NOON + timedelta(seconds=9)) == []
    assert due([alert], {}, None, NOON + timedelta(seconds=10))


@given(
    kinds=st.lists(st.sampled_from([*sorted(CRITICAL)[:3], *sorted(INFO)[:2], "strategy_failed"]), max_size=30),
    quiet=st.sampled_from([None, NIGHT]),
)
def test_nothing_is_told_twice_in_a_look_and_the_gravest_comes_first(
    kinds: list[str], quiet: QuietHours | None
) -> None:
    alerts = [make_alert(kind) for kind in kinds]
    bundles = due(alerts, {}, quiet, NOON)
    told = [each.alert_id for bundle in bundles for each in bundle.alerts]
    assert sorted(told) == sorted(each.alert_id for each in alerts)
    gravity = [list(Severity).index(bundle.severity) for bundle in bundles]
    assert gravity == sorted(gravity, reverse=True)


def test_a_message_holds_no_line_of_anothers_making_and_says_simulated() -> None:
    bundle = Bundle("drift", (make_alert("drift", message="x\r\nBcc: a@b.c\x00\u2028" + "y" * 500),))
    for line in (title(bundle, "local, SIMULATED"), *body(bundle).splitlines()):
        assert line.isprintable()
        assert len(line) <= policy.MOST_CHARACTERS + 10
    assert "\nBcc" not in body(bundle)
    assert title(bundle, "local, SIMULATED") == "CRITICAL: drift · Alpha Panda (local, SIMULATED)"


def test_a_kind_nobody_listed_is_a_warning() -> None:
    assert severity_of("unheard_of") is Severity.WARNING
    assert not CRITICAL & INFO


# channels -------------------------------------------------------------------------------------------------------------

TELEGRAM = "tgram://123456789:AAEhBOweik9ai2o01/987654321"


def test_several_channels_in_one_line() -> None:
    assert channels.split(f" {TELEGRAM}, jsons://h/p?a=b,c  mailtos://u:p@h ") == [
        TELEGRAM,
        "jsons://h/p?a=b,c",
        "mailtos://u:p@h",
    ]
    assert channels.split("") == []


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd", "dbus://", "syslog://x", "http://169.254.169.254/", "windows://x", f"{TELEGRAM} gopher://x"],
)
def test_what_is_no_channel_stops_the_start_without_being_shown(text: str, tmp_path: Path) -> None:
    ensure_env(tmp_path)
    with pytest.raises(ConfigError, match="ALERT_URLS") as refused:
        load_settings(tmp_path / ".env", alert_urls=text)
    assert "AAEhBOweik9ai2o01" not in str(refused.value)
    assert "169.254" not in str(refused.value)


@pytest.mark.parametrize("text", ["file:///etc/passwd", "ftp://h/p", "javascript:1", "https://"])
def test_a_heartbeat_that_is_no_web_address_stops_the_start(text: str, tmp_path: Path) -> None:
    ensure_env(tmp_path)
    with pytest.raises(ConfigError, match="ALERT_HEARTBEAT_URL"):
        load_settings(tmp_path / ".env", alert_heartbeat_url=text)


def test_a_fresh_env_tells_nobody(tmp_path: Path) -> None:
    ensure_env(tmp_path)
    fresh: Settings = load_settings(tmp_path / ".env")
    assert channels.channels(fresh.alert_urls.get_secret_value()) == []
    assert fresh.grafana_admin_password is not None


def test_a_channel_is_named_without_its_secret() -> None:
    channel = AppriseChannel(TELEGRAM)
    assert channel.name.startswith("tgram-")
    for text in (channel.name, repr(channel)):
        assert "AAEhBOweik9ai2o01" not in text
        assert "123456789" not in text
    assert AppriseChannel(TELEGRAM).name == channel.name, "the same after a restart"


@pytest.mark.parametrize(
    ("url", "text", "secret"),
    [
        (TELEGRAM, "no answer from /bot123456789:AAEhBOweik9ai2o01/send", "AAEhBOweik9ai2o01"),
        ("mailtos://me:pa%24sword1@mail.org", "535 me pa$sword1 refused", "pa$sword1"),
        (
            "jsons://host.org/hook/s3cr3tpath?tok=q7q7q7",
            "POST https://host.org/hook/s3cr3tpath?tok=q7q7q7",
            "s3cr3tpath",
        ),
        ("jsons://host.org/hook/s3cr3tpath?tok=q7q7q7", "tok=q7q7q7", "q7q7q7"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "at 4174216298", "4174216298"),
    ],
)
def test_a_channels_own_words_are_freed_of_its_secrets(url: str, text: str, secret: str) -> None:
    assert secret in text
    assert secret not in without_secrets(text, url)


async def test_a_url_the_library_cannot_read_is_a_failed_channel() -> None:
    with pytest.raises(ChannelFailed, match="ALERT_URLS"):
        await AppriseChannel("tgram://nonsense").send("t", "b", Severity.INFO)


# what the processes say -----------------------------------------------------------------------------------------------


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def make_health(name: str, ready: bool = True, started_at: float = 1.0, **parts: str) -> Health:
    reason = "; ".join(f"{part}: {why}" for part, why in parts.items() if why)
    return Health(name, ready and not reason, reason, 1, 1.0, parts, "", started_at)


def test_a_change_of_the_whole_is_told_once_it_lasts() -> None:
    ready = watch.ReadyWatch()
    told = {}
    states = [(0, False), (60, False), (90, True), (94, True), (95, True), (100, False), (114, False), (115, False)]
    states += [(300, False), (301, True), (303, False), (304, True), (308, True), (309, True), (400, True)]
    for at, is_ready in states:
        news = ready.observe(seconds(at), is_ready)
        if news is not None:
            told[at] = news
    assert told == {95: True, 115: False, 309: True}


def test_a_start_that_never_gets_ready_is_told_after_two_minutes() -> None:
    ready = watch.ReadyWatch()
    assert [ready.observe(seconds(at), False) for at in (0, 119, 120, 121)] == [None, None, False, None]


def test_a_process_that_is_another_one_was_restarted() -> None:
    restarts = watch.RestartWatch()
    first = {"api": make_health("api", started_at=1.0), "portfolio": make_health("portfolio", started_at=1.0)}
    assert restarts.observe(first) == []
    assert restarts.observe({"api": make_health("api", started_at=2.0)}) == ["api"]
    assert restarts.observe({**first, "api": make_health("api", started_at=2.0)}) == []
    remembered = watch.RestartWatch(seen={"alert-sender": 1.0})
    assert remembered.observe({"alert-sender": make_health("alert-sender", started_at=9.0)}) == ["alert-sender"]


@pytest.mark.parametrize(
    ("feed", "is_open", "told"),
    [
        (make_health("market-feed", kite="the market data connection is down"), True, True),
        (make_health("market-feed", session="no valid Zerodha session"), True, True),
        (None, True, True),
        (Health("market-feed", False, "no heartbeat for 11 s", 1, 1.0), True, True),
        (make_health("market-feed", kite="the market data connection is down"), False, False),
        (make_health("market-feed", postgres="away"), True, False),
        (make_health("market-feed", kite=""), True, False),
    ],
)
def test_a_feed_mute_for_five_seconds_of_a_session_is_told_once(feed: Health | None, is_open: bool, told: bool) -> None:
    mute = watch.MuteWatch()
    news = [mute.observe(seconds(at), feed, is_open) is not None for at in (0, 4, 5, 6, 60)]
    assert news == [False, False, told, False, False]
    assert mute.observe(seconds(61), make_health("market-feed"), True) is None
    if told:
        again = [mute.observe(seconds(at), feed, is_open) is not None for at in (70, 75)]
        assert again == [False, True]


@pytest.mark.parametrize(
    ("wall", "has_session", "times"),
    [
        ("08:29", False, 0),
        ("08:30", False, 1),
        ("09:04", False, 1),
        ("09:05", False, 2),
        ("14:00", False, 2),
        ("08:30", True, 0),
        ("23:58", False, 0),
    ],
)
def test_a_login_is_due_before_the_market_opens(wall: str, has_session: bool, times: int) -> None:
    hour, minute = map(int, wall.split(":"))
    now = datetime(2026, 11, 23, hour, minute, tzinfo=UTC) - timedelta(hours=5, minutes=30)
    due_now = watch.login_due(ExchangeCalendar(), now, has_session)
    assert due_now == ((datetime(2026, 11, 23, tzinfo=UTC).date(), times) if times else None)


@pytest.mark.parametrize(("net", "told"), [("-4999.99", False), ("-5000", True), ("-6000.5", True), ("9000", False)])
def test_a_days_loss_is_told_where_it_reaches_its_limit(net: str, told: bool) -> None:
    words = watch.past_loss("momentum@paper", Decimal(net), Decimal(5000))
    assert (words is not None) is told
    if words:
        assert words.startswith(f"momentum@paper has lost ₹{-Decimal(net):.2f} today, the limit is ₹5000.00")


def test_nobody_need_log_in_on_a_sunday() -> None:
    assert watch.login_due(ExchangeCalendar(), NOON - timedelta(days=1), False) is None


def test_reasons_name_every_process_that_is_not_there() -> None:
    said = {"api": make_health("api"), "portfolio": make_health("portfolio", postgres="away")}
    assert watch.reasons(["api", "portfolio", "risk-manager"], said) == {
        "portfolio": "postgres: away",
        "risk-manager": "not running",
    }
    assert watch.waits_for_login_alone({"broker": f"session: run `{watch.LOGIN}`"})
    assert not watch.waits_for_login_alone({"broker": f"session: run `{watch.LOGIN}`", "api": "not running"})
    assert watch.in_session(AlwaysOpen(), NOON)
