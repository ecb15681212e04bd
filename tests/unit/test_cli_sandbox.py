"""`alpha-panda sandbox` alone is this home's sandbox, as `.env` has it; flags say otherwise."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cli.sandbox import from_settings
from cli.setup import ensure_env
from core.config import load_settings
from core.errors import ConfigError
from sandbox.__main__ import _Json, parse


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    monkeypatch.setenv("KITE_API_SECRET", "")  # put back afterwards: the command sets it
    monkeypatch.delenv("KITE_API_SECRET")
    return tmp_path


def test_without_flags_it_is_what_the_settings_say(home: Path) -> None:
    ensure_env(home, {"SANDBOX_PORT": "28555", "KITE_USER_ID": "ZZ0042"})
    settings = load_settings()
    flags = from_settings([])
    assert settings.kite_api_secret.get_secret_value() not in " ".join(flags)
    config = parse(flags)
    assert (config.port, config.user_id, config.api_key) == (28555, "ZZ0042", settings.kite_api_key)
    assert config.api_secret == settings.kite_api_secret
    assert config.data_dir == home / "var" / "data" / "sandbox"


def test_a_flag_goes_before_the_settings(home: Path) -> None:
    ensure_env(home)
    given = ["--port", "0", "--still"]
    config = parse([*from_settings(given), *given])
    assert (config.port, config.still) == (0, True)


@pytest.mark.parametrize("given", [["--data-dir", "x", "--api-key", "k"], ["--api-key=k"], ["--help"]])
def test_who_names_everything_needs_no_settings(home: Path, given: list[str]) -> None:
    assert from_settings(given) == []


def test_without_settings_it_says_what_to_do(home: Path) -> None:
    with pytest.raises(ConfigError, match="make setup"):
        from_settings([])


def test_its_log_can_be_json() -> None:
    record = logging.LogRecord("sandbox", logging.INFO, __file__, 1, "on %s", ("port 1",), None)
    row = json.loads(_Json().format(record))
    assert (row["event"], row["level"], row["logger"]) == ("on port 1", "info", "sandbox")
