"""`alpha-panda setup`: writes `.env` with generated passwords; after a pull adds what is new. Never changes a value in it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from core.config import home
from core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `.env` with the comment above it. `value` is text, or makes one (a new password each time)."""

    key: str
    comment: str
    value: str | Callable[[], str]


def password() -> str:
    """48 hex digits: needs no quoting in a shell, a URL, an ini file or a compose file, and is never taken for a flag."""
    return secrets.token_hex(24)


def _port(key: str, comment: str) -> Entry:
    from core.config import Settings

    return Entry(key, comment, str(Settings.model_fields[key.lower()].default))


def entries() -> list[tuple[str, list[Entry]]]:
    """Every setting `.env` holds, by section, in the order a person reads them."""
    return [
        (
            "What trades, and against whom",
            [
                Entry("ACTIVE_BROKERS", "Brokers this deployment runs: paper, or paper,zerodha.", "paper,zerodha"),
                Entry(
                    "KITE_TARGET",
                    "Servers behind zerodha: local (our sandbox, simulated prices), zerodha-sandbox, production (real money).",
                    "local",
                ),
            ],
        ),
        (
            "Kite Connect app (developers.kite.trade); on `local` any values do",
            [
                Entry("KITE_API_KEY", "The app's API key.", "localdemo"),
                Entry("KITE_API_SECRET", "The app's API secret.", password),
                Entry("KITE_USER_ID", "Your Zerodha user id.", "AP0001"),
            ],
        ),
        (
            "Who is told (docs/operations.md, Alerts); these addresses are passwords",
            [
                Entry("ALERT_URLS", "Channels as Apprise URLs, a space between them; none: nobody is told.", ""),
                Entry("ALERT_QUIET_HOURS", "IST, like 22:00-07:00: only critical alerts are told then.", ""),
                Entry("ALERT_HEARTBEAT_URL", "Asked for once a minute while all is ready (a dead-man monitor).", ""),
                Entry("MONITORING", "Also run Prometheus and Grafana, Docker stack only.", "false"),
            ],
        ),
        (
            "Ports, all on loopback",
            [
                _port("KAFKA_PORT", "Kafka (Redpanda in Docker)."),
                _port("KAFKA_CONTROLLER_PORT", "Kafka's controller, native stack only."),
                _port("POSTGRES_PORT", "PostgreSQL."),
                _port("REDIS_PORT", "Redis (Valkey in the native stack)."),
                _port("TEMPORAL_PORT", "Temporal server."),
                _port("TEMPORAL_UI_PORT", "Temporal UI, for your browser."),
                _port("CONSOLE_PORT", "Redpanda Console, for your browser, Docker stack only."),
                _port("PROMETHEUS_PORT", "Prometheus, where MONITORING is true, Docker stack only."),
                _port("GRAFANA_PORT", "Grafana, for your browser, where MONITORING is true, Docker stack only."),
                _port("API_PORT", "Our API and its documentation, for your browser."),
                _port("SANDBOX_PORT", "The local Kite sandbox."),
                _port("KITE_LOGIN_PORT", "Where `alpha-panda login` waits for Kite's redirect."),
            ],
        ),
        (
            "Generated passwords. The admin ones are part of the data: keep them with it. The others may be changed",
            [
                Entry("KAFKA_ADMIN_PASSWORD", "Kafka's superuser: provisioning only.", password),
                Entry("KAFKA_APP_PASSWORD", "Shared services.", password),
                Entry("KAFKA_PAPER_PASSWORD", "The order workers of paper.", password),
                Entry("KAFKA_ZERODHA_PASSWORD", "The order workers of zerodha.", password),
                Entry("POSTGRES_ADMIN_PASSWORD", "PostgreSQL's superuser: provisioning and migrations only.", password),
                Entry("POSTGRES_APP_PASSWORD", "Shared services.", password),
                Entry("POSTGRES_PAPER_PASSWORD", "The order workers of paper.", password),
                Entry("POSTGRES_ZERODHA_PASSWORD", "The order workers of zerodha.", password),
                Entry(
                    "POSTGRES_TEMPORAL_PASSWORD",
                    "Temporal's own role, Docker stack only; part of its data too.",
                    password,
                ),
                Entry("REDIS_PASSWORD", "Read models.", password),
                Entry("GRAFANA_ADMIN_PASSWORD", "User admin of Grafana, Docker stack only.", password),
                Entry("API_JWT_SECRET", "Signs sessions of the control room; a new one ends them all.", password),
            ],
        ),
    ]


HEAD = "# Settings of this deployment. Written by `make setup`; change values freely, they are never overwritten.\n"


def _keys(text: str) -> set[str]:
    return {match.upper() for match in re.findall(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=", text, re.M)}


def _render(given: Mapping[str, str], there: set[str]) -> tuple[str, list[str]]:
    """The lines for every entry not `there` yet, and the keys written."""
    text, added = "", []
    for section, rows in entries():
        new = [row for row in rows if row.key not in there]
        if new:
            text += f"\n# {section} {'-' * max(4, 108 - len(section))}\n"
        for row in new:
            value = given.get(row.key) or (row.value if isinstance(row.value, str) else row.value())
            text += f"# {row.comment}\n{row.key}={value}\n"
            added.append(row.key)
    return text, added


def ensure_env(folder: Path, given: Mapping[str, str] | None = None) -> list[str]:
    """Write `.env` when missing, add the settings it lacks otherwise. Returns the keys written; none when complete.

    `given` overrides defaults of settings that are written now.

    Raises:
        ConfigError: `.env` is gone but the data it holds the passwords of is still there.
    """
    from docker.native.layout import write_private

    path = folder / ".env"
    if not path.exists() and (folder / "var" / "data" / "postgres").exists():
        raise ConfigError(
            f"{path} is missing, but {folder / 'var' / 'data'} was made with the passwords in it.\n"
            "Put it back from your backup, or start anew with `make clean DATA=1`."
        )
    present = path.read_text() if path.exists() else ""
    text, added = _render(given or {}, _keys(present))
    if added:
        folder.mkdir(parents=True, exist_ok=True)
        before = present if present.endswith("\n") or not present else present + "\n"
        write_private(path, (before or HEAD) + text)
    path.chmod(0o600)
    return added


def register(app: typer.Typer) -> None:
    @app.command()
    def setup() -> None:
        """Write .env with generated passwords when missing; add new settings after a pull. Overwrites nothing."""
        from cli import first_admin
        from cli.overview import show_first_admin
        from core.config import load_settings

        path = home() / ".env"
        new = not path.exists()
        added = ensure_env(home())
        settings = load_settings()
        if new:
            print(f"Wrote {path} with generated passwords, readable by you alone.")
            show_first_admin(first_admin.prepare(settings.var))
        else:
            print(f"{path} {'gained ' + ', '.join(added) if added else 'is complete: nothing changed'}.")
