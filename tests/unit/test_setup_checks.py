"""`make up` off `local` needs a session first, and says which command gets one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import checks, overview, record
from cli.setup import ensure_env
from core.brokers.zerodha_session import Session, write_session
from core.clock import utc_now
from core.config import Settings, load_settings
from core.errors import SessionMissing, StopTheStart
from core.trading.types import Broker


@pytest.fixture
def make_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))

    def make(**given: Any) -> Settings:
        ensure_env(tmp_path)
        return load_settings(**given)

    return make


def _session(settings: Settings, hours: float, user: str | None = None) -> Session:
    now = utc_now()
    return Session(
        user or settings.kite_user_id,
        settings.kite_api_key,
        "token-that-nobody-sees",
        now,
        now + timedelta(hours=hours),
    )


def test_local_logs_itself_in_and_needs_no_session(make_settings: Any) -> None:
    checks.session(make_settings(kite_target="local"))


@pytest.mark.parametrize("hours", [None, -1])
def test_without_a_valid_session_the_start_stops_and_names_the_command(make_settings: Any, hours: float | None) -> None:
    settings = make_settings(kite_target="production")
    if hours is not None:
        write_session(settings, _session(settings, hours))
    with pytest.raises(SessionMissing, match="alpha-panda login") as caught:
        checks.session(settings)
    assert "Nothing was started" in str(caught.value)
    assert "token-that-nobody-sees" not in str(caught.value)


def test_a_valid_session_lets_the_start_go_on(make_settings: Any) -> None:
    settings = make_settings(kite_target="production")
    write_session(settings, _session(settings, 5))
    checks.session(settings)


def test_another_users_session_stops_the_start(make_settings: Any) -> None:
    """KITE_USER_ID was changed after the login: orders would be booked as one user's and sent as the other's."""
    settings = make_settings(kite_target="production")
    write_session(settings, _session(settings, 5, "ZZ9999"))
    with pytest.raises(SessionMissing, match=f"of user ZZ9999.*KITE_USER_ID is {settings.kite_user_id}"):
        checks.session(settings)


@pytest.mark.parametrize(
    ("active", "opted", "runs", "off"),
    [
        ((Broker.PAPER, Broker.ZERODHA), {}, ["paper"], []),
        ((Broker.PAPER, Broker.ZERODHA), {"zerodha": "local"}, ["paper", "zerodha (local)"], []),
        ((Broker.PAPER,), {"zerodha": "local"}, ["paper"], ["zerodha (not in ACTIVE_BROKERS)"]),
        (
            (Broker.PAPER, Broker.ZERODHA),
            {"zerodha": "production"},
            ["paper"],
            ["zerodha (opted in for production, this is local)"],
        ),
    ],
)
def test_what_trades_follows_opt_ins_targets_and_active_brokers(
    make_settings: Any, active: tuple[Broker, ...], opted: dict[str, str], runs: list[str], off: list[str]
) -> None:
    assert overview.judge(make_settings(active_brokers=active), opted) == (runs, off)


def test_the_overview_says_that_local_logged_in_by_itself(
    make_settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    overview.show(make_settings(kite_target="local"), [])
    said = capsys.readouterr().out
    assert "Logged in at the sandbox by itself, as AP0001" in said
    assert "SIMULATED" in said
    overview.show(make_settings(kite_target="production"), [])
    assert "by itself" not in capsys.readouterr().out


def test_the_code_hash_changes_with_env_file_and_settings_and_not_by_itself(tmp_path: Path, make_settings: Any) -> None:
    first = record.code_hash(make_settings())
    assert record.code_hash(make_settings()) == first
    assert record.code_hash(make_settings(log_level="DEBUG")) != first
    with (tmp_path / ".env").open("a") as file:
        file.write("NEW=1\n")
    assert record.code_hash(make_settings()) != first


def test_two_starts_at_once_are_refused(tmp_path: Path) -> None:
    with record.alone(tmp_path), pytest.raises(StopTheStart, match="Another"), record.alone(tmp_path):
        pass
