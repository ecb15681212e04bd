"""`.env`: generated once, private, added to after a pull, never overwritten."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.first_admin import FILE
from cli.main import app
from cli.setup import ensure_env, entries, password
from core.config import Settings, load_settings
from core.errors import ConfigError
from core.people.passwords import matches
from docker import prerequisites


def _values(folder: Path) -> dict[str, str]:
    rows = (line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if "=" in line and line[0] != "#")
    return dict(rows)  # type: ignore[arg-type]


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_settings")
def test_a_fresh_env_is_complete_private_and_local(tmp_path: Path) -> None:
    added = ensure_env(tmp_path)
    assert len(added) == sum(len(rows) for _, rows in entries())
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    settings = load_settings(tmp_path / ".env")
    assert settings.simulated
    for line in (tmp_path / ".env").read_text().splitlines():
        assert not line or line.startswith("#") or "=" in line


def test_every_password_is_generated_and_differs(tmp_path: Path) -> None:
    ensure_env(tmp_path / "one")
    ensure_env(tmp_path / "two")
    secrets = [
        value
        for folder in ("one", "two")
        for key, value in _values(tmp_path / folder).items()
        if key.endswith(("PASSWORD", "SECRET"))
    ]
    assert len(secrets) == len(set(secrets)) == 26
    assert all(len(value) >= 32 for value in secrets)


def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    ensure_env(tmp_path)
    before = (tmp_path / ".env").read_bytes()
    assert ensure_env(tmp_path) == []
    assert (tmp_path / ".env").read_bytes() == before


def test_after_a_pull_new_settings_are_added_and_values_kept(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# mine\nKAFKA_PORT=30092\nREDIS_PASSWORD = my-own-long-password\nMY_OWN=1")
    added = ensure_env(tmp_path)
    text = (tmp_path / ".env").read_text()
    assert text.startswith("# mine\nKAFKA_PORT=30092\nREDIS_PASSWORD = my-own-long-password\nMY_OWN=1\n")
    assert "KAFKA_PORT" not in added
    assert "REDIS_PASSWORD" not in added
    assert "POSTGRES_PORT" in added
    assert text.count("KAFKA_PORT=") == 1


def test_given_values_are_used_only_where_nothing_was_written(tmp_path: Path) -> None:
    ensure_env(tmp_path, {"KAFKA_PORT": "30092"})
    ensure_env(tmp_path, {"KAFKA_PORT": "31092"})
    assert _values(tmp_path)["KAFKA_PORT"] == "30092"


def test_a_lost_env_is_not_replaced_while_its_data_is_there(tmp_path: Path) -> None:
    (tmp_path / "var" / "data" / "postgres").mkdir(parents=True)
    with pytest.raises(ConfigError, match="backup"):
        ensure_env(tmp_path)
    assert not (tmp_path / ".env").exists()


@pytest.mark.usefixtures("no_settings")
def test_every_setting_without_a_default_is_written_and_every_written_one_is_known(tmp_path: Path) -> None:
    written = {row.key.lower() for _, rows in entries() for row in rows}
    required = {name for name, field in Settings.model_fields.items() if field.is_required()}
    assert required <= written <= set(Settings.model_fields)


def test_the_bootstrap_checks_the_ports_the_settings_use() -> None:
    for name, port in prerequisites.ALL_PORTS.items():
        assert Settings.model_fields[name.lower()].default == port
    assert set(prerequisites.DEFAULT_PORTS) < set(prerequisites.TEST_PORTS) == set(prerequisites.TEST_OFFSETS)
    assert not set(prerequisites.DEFAULT_PORTS.values()) & {5432, 6379, 9092, 8000}


def test_a_generated_password_is_never_taken_for_a_flag() -> None:
    assert all(re.fullmatch("[0-9a-f]{48}", password()) for _ in range(200))


def test_setup_shows_the_first_admins_password_once_and_keeps_its_hash_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    said = CliRunner().invoke(app, ["setup"]).stdout
    (line,) = [line for line in said.splitlines() if "First login" in line]
    shown = line.split()[-1]
    kept = tmp_path / "var" / FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert asyncio.run(matches(shown, kept.read_text()))
    assert shown not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "First login" not in CliRunner().invoke(app, ["setup"]).stdout
