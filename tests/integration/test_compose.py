"""docker/compose.yaml and docker/Dockerfile, checked without an engine: by compose's own loader, and by what must hold in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.compose import mounted, profiles, project
from cli.setup import entries
from core.config import PROJECT_ROOT, Settings
from core.flatten_file import FlattenFile
from core.health import HealthReporter
from core.services import names, services
from core.trading.types import Broker, KiteTarget

DOCKER = PROJECT_ROOT / "docker"
FILE = DOCKER / "compose.yaml"
LOADER = DOCKER / "compose" / "check"
"""A few lines of Go around compose-go, whose version its go.mod pins."""

MONITORS = {"prometheus", "grafana"}
THEIRS = {"redpanda", "console", "postgres", "redis", "temporal", "temporal-ui"} | MONITORS
JOBS = {"temporal-schema", "provision"}
NOT_IN_CONTAINERS = {
    "active_brokers",
    "kafka_controller_port",
    "postgres_temporal_password",
    "console_port",
    "monitoring",
    "prometheus_port",
    "grafana_port",
    "grafana_admin_password",
    "failpoints",
}
"""Settings our containers need not get: defaults serve there, or another part uses them. (ACTIVE_BROKERS is checked by itself.)"""


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def parts() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def our_names() -> set[str]:
    """Every service of ours, whatever the settings."""
    everything = Settings.model_construct(active_brokers=tuple(Broker), kite_target=KiteTarget.LOCAL)
    return set(names(services(everything)))


def made_up_env(**changed: str) -> dict[str, str]:
    """What `make setup` would write, with other passwords each time."""
    written = {
        row.key: row.value if isinstance(row.value, str) else row.value() for _, rows in entries() for row in rows
    }
    return {"PATH": os.environ["PATH"], "ALPHA_PANDA_HOME": "/nowhere", **written, **changed}


# compose's own loader -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loader() -> Path:
    """compose-go as a program, built once into .tools/. Required where CI=true, elsewhere skipped without Go."""
    required = os.environ.get("CI") == "true"

    def without(reason: str) -> None:
        if required:
            pytest.fail(f"the compose file must be checked by compose's own loader in CI: {reason}")
        pytest.skip(f"compose's own loader is not there: {reason}")

    version = re.search(r"compose-go/v2 (v\S+)", (LOADER / "go.mod").read_text())
    assert version is not None
    program = PROJECT_ROOT / ".tools" / "compose-go" / version[1] / "check"
    if not program.exists() or program.stat().st_mtime < (LOADER / "main.go").stat().st_mtime:
        if shutil.which("go") is None:
            without("Go is not installed")
        built = subprocess.run(
            ["go", "build", "-o", str(program), "."],
            cwd=LOADER,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        if built.returncode != 0:
            without(f"`go build` failed: {built.stderr.strip()[-300:]}")
    return program


def resolve(loader: Path, env: dict[str, str], *chosen: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(loader), str(FILE), *chosen], env=env, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    ("chosen", "absent"),
    [
        (("local", "zerodha", "monitoring"), set()),
        (("local", "zerodha"), MONITORS),
        (("local",), {"orders-zerodha", "broker-zerodha"} | MONITORS),
        (("zerodha",), {"sandbox"} | MONITORS),
        ((), {"sandbox", "orders-zerodha", "broker-zerodha"} | MONITORS),
    ],
)
def test_compose_itself_loads_the_file_with_every_choice_of_profiles(
    loader: Path, chosen: tuple[str, ...], absent: set[str]
) -> None:
    done = resolve(loader, made_up_env(), *chosen)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == (THEIRS | JOBS | our_names()) - absent


@pytest.mark.timeout(1000)
def test_a_missing_password_stops_compose_and_names_make_setup(loader: Path) -> None:
    env = made_up_env()
    del env["POSTGRES_APP_PASSWORD"]
    done = resolve(loader, env)
    assert done.returncode != 0
    assert "POSTGRES_APP_PASSWORD" in done.stderr
    assert "make setup" in done.stderr


@pytest.mark.timeout(1000)
def test_the_resolved_file_publishes_on_loopback_alone(loader: Path) -> None:
    resolved = json.loads(resolve(loader, made_up_env(), "local", "zerodha", "monitoring").stdout)["services"]
    published = [(name, port) for name, part in resolved.items() for port in part.get("ports", [])]
    assert len(published) == 10
    assert {port["host_ip"] for _, port in published} == {"127.0.0.1"}


# what must hold in it -----------------------------------------------------------------------------------------------


def test_every_process_of_ours_is_a_service_of_its_own_name() -> None:
    assert set(parts()) == THEIRS | JOBS | our_names()
    for name in our_names():
        assert parts()[name]["command"] == ["service", name]


@pytest.mark.parametrize(
    ("brokers", "target", "expected"),
    [
        ((Broker.PAPER, Broker.ZERODHA), KiteTarget.LOCAL, "local,zerodha"),
        ((Broker.PAPER,), KiteTarget.LOCAL, "local"),
        ((Broker.PAPER, Broker.ZERODHA), KiteTarget.PRODUCTION, "zerodha"),
        ((Broker.PAPER,), KiteTarget.PRODUCTION, ""),
    ],
)
def test_the_command_line_starts_what_the_settings_name(
    brokers: tuple[Broker, ...], target: KiteTarget, expected: str
) -> None:
    assert profiles(Settings.model_construct(active_brokers=brokers, kite_target=target)) == expected


def test_monitoring_runs_where_the_settings_say_so() -> None:
    chosen = Settings.model_construct(
        active_brokers=(Broker.PAPER,), kite_target=KiteTarget.PRODUCTION, monitoring=True
    )
    assert profiles(chosen) == "monitoring"


def test_another_home_has_containers_and_volumes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(PROJECT_ROOT))
    here = project(Settings.model_construct())
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    assert here == "alpha-panda"
    assert re.fullmatch(r"alpha-panda-[0-9a-f]{8}", project(Settings.model_construct()))


def test_profiles_are_those_the_command_line_sets() -> None:
    wanted = {"sandbox": ["local"], "orders-zerodha": ["zerodha"], "broker-zerodha": ["zerodha"]}
    wanted |= {name: ["monitoring"] for name in MONITORS}
    assert {name: part["profiles"] for name, part in parts().items() if "profiles" in part} == wanted


def test_every_published_port_is_on_loopback() -> None:
    published = [port for part in parts().values() for port in part.get("ports", [])]
    assert published
    assert [port for port in published if not str(port).startswith("127.0.0.1:")] == []


def test_every_image_is_pinned() -> None:
    for name, part in parts().items():
        tag = str(part["image"]).rpartition(":")[2]
        assert tag == "local" if name in our_names() | {"provision"} else re.fullmatch(r"v?\d+\.\d+(\.\d+)?", tag), name
    bases = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.M)
    assert bases
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases)


def test_no_password_stands_in_the_file_and_none_has_a_default() -> None:
    secret = re.compile(r"PASSWORD|PWD|SECRET|RP_BOOTSTRAP_USER")
    checked = 0
    for part in parts().values():
        for key, value in part.get("environment", {}).items():
            if secret.search(key):
                checked += 1
                assert re.fullmatch(r"(admin:)?\$\{\w+:\?run make setup\}(:SCRAM-SHA-256)?", value), key
    assert checked > 20
    for path in (DOCKER / "compose").glob("*.*"):
        assert not re.search(r"(?i)(password|requirepass)[:= ]+(?!\$|:')\w{6,}", path.read_text()), path.name


def test_every_part_but_the_jobs_has_a_health_check_and_ours_ask_their_own_health_file() -> None:
    for name, part in parts().items():
        if name in JOBS:
            assert "healthcheck" not in part
        else:
            assert part["healthcheck"]["test"], name
    for name in our_names():
        assert parts()[name]["healthcheck"]["test"] == ["CMD", "python", "-m", "core.health", name]


def test_the_start_waits_for_health_and_for_jobs_that_ended_well() -> None:
    for name, part in parts().items():
        for other, how in part.get("depends_on", {}).items():
            ended = "service_completed_successfully" if other in JOBS else "service_healthy"
            assert how["condition"] == ended, (name, other)
    for name in our_names():
        assert "provision" in parts()[name]["depends_on"]


def test_ours_have_time_to_stop_limits_and_no_more_rights_than_they_need() -> None:
    for name in our_names():
        part = parts()[name]
        assert part["stop_grace_period"] == "12s"
        assert part["read_only"] is True
        assert part["cap_drop"] == ["ALL"]
        assert part["restart"] == "unless-stopped"
    assert all("mem_limit" in part for part in parts().values())


def test_ours_get_every_setting_there_is() -> None:
    given = {key.lower() for key in compose()["x-settings"]} | {"api_host"}
    assert set(Settings.model_fields) - NOT_IN_CONTAINERS - given == set()
    assert given - set(Settings.model_fields) == set()
    assert "active_brokers" in given


def test_every_mounted_file_is_there() -> None:
    for name, part in parts().items():
        for mount in part.get("volumes", []):
            if isinstance(mount, str) and mount.startswith("./"):
                assert (DOCKER / mount.split(":")[0]).exists(), (name, mount)


def test_ours_see_the_session_and_what_flatten_sent_and_nothing_else_of_the_home() -> None:
    """Both are made by commands outside the containers; reconciliation could not book what it does not see."""
    settings = Settings.model_construct(kite_target=KiteTarget.LOCAL)
    for name in our_names():
        bound = {row["target"]: row for row in parts()[name]["volumes"] if isinstance(row, dict)}
        assert set(bound) == {"/srv/alpha-panda/var/session", "/srv/alpha-panda/var/flatten"}, name
        for target, row in bound.items():
            inside = target.removeprefix("/srv/alpha-panda")
            assert row["source"].endswith("}" + inside), "the same folder of the home"
            assert row["bind"] == {"create_host_path": False}
    at_home = {str(folder.relative_to(settings.home)) for folder in mounted(settings)}
    assert at_home == {"var/session", "var/flatten"}, "they are made before Docker would make them root's"
    assert FlattenFile(settings.var, "AB1234", "local").path.parent == settings.var / "flatten"


def test_temporal_runs_with_the_values_of_the_native_stack() -> None:
    from docker.native.temporal import DYNAMIC

    there = yaml.safe_load((DOCKER / "compose" / "temporal-dynamic.yaml").read_text())
    assert {key: str(rows[0]["value"]) for key, rows in there.items()} == DYNAMIC


def test_redpanda_starts_durable_closed_and_without_auto_create() -> None:
    properties = yaml.safe_load((DOCKER / "compose" / "redpanda-bootstrap.yaml").read_text())
    assert properties["enable_sasl"] is True
    assert properties["auto_create_topics_enabled"] is False
    assert properties["write_caching_default"] == "false"
    assert "--unsafe-bypass-fsync=false" in parts()["redpanda"]["command"]


# the image ----------------------------------------------------------------------------------------------------------


def test_everything_the_image_copies_is_there_and_not_ignored() -> None:
    kept = {row[1:] for row in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if row.startswith("!")}
    copied = set()
    for row in re.findall(r"^COPY (?!--from)(.+)$", (DOCKER / "Dockerfile").read_text(), re.M):
        copied |= set(row.split()[:-1])
    assert copied
    for source in copied:
        assert (PROJECT_ROOT / source).exists(), source
    assert copied == kept


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)", (DOCKER / "Dockerfile").read_text(), re.M)
    assert users
    assert users[-1] not in {"root", "0"}


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1), (None, 1)])
def test_the_health_check_says_what_the_health_file_says(tmp_path: Path, ready: bool | None, code: int) -> None:
    from core import health

    reporter = HealthReporter("portfolio", tmp_path / "var" / "run")
    if ready is not None:
        reporter.started()
    if ready is False:
        reporter.waiting("postgres", "away")
        reporter._write()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
        assert health.main(["portfolio"]) == code
