"""What stands in the way is found before anything changes, all of it, in one message that says the way out."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docker import prerequisites
from docker.prerequisites import Findings, check, install_line, message


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_its_setting_and_its_holder(tmp_path: Path, taken_port: int) -> None:
    found = check(native=True, ports={"REDIS_PORT": taken_port}, folder=tmp_path, installed=True)
    assert len(found.other) == 1
    assert f"Port {taken_port} (REDIS_PORT) is taken by" in found.other[0]
    assert "REDIS_PORT=... in .env" in found.other[0]


def test_free_ports_are_no_finding(tmp_path: Path, taken_port: int) -> None:
    found = check(native=True, ports={"REDIS_PORT": taken_port + 1}, folder=tmp_path, installed=True)
    assert not any(str(taken_port + 1) in text for text in found.other)


def test_all_that_is_missing_is_in_one_message(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prerequisites, "KAFKA_JARS", tmp_path / "none")
    monkeypatch.setattr(prerequisites, "DISK_TO_INSTALL_MB", 10**9)
    text = message(check(native=True, ports={"API_PORT": taken_port}, folder=tmp_path, installed=False))
    for word in ("Java 17", "Maven", "make", f"Port {taken_port} (API_PORT)", "Too little disk", "Way out"):
        assert word in text


def test_docker_needs_neither_java_nor_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prerequisites, "KAFKA_JARS", tmp_path / "none")
    assert set(check(native=False, ports=None, folder=tmp_path, installed=True).missing) == {"make"}


def test_a_browser_is_wanted_by_the_tests_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = {"native": False, "ports": None, "folder": tmp_path, "installed": True}
    assert not any("Chromium" in name for name in check(**wanted).missing)
    found = check(**wanted, browsing=True).missing
    assert next(packages for name, packages in found.items() if "Chromium" in name)[0].startswith("chromium")


def test_the_install_line_is_exact_and_uses_sudo_only_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites.shutil, "which", lambda name: f"/usr/bin/{name}")
    found = Findings(missing={"Java": ("default-jre-headless",), "Maven": ("maven",)})
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 0)
    assert install_line(found) == (
        "apt-get update && apt-get install -y --no-install-recommends default-jre-headless maven"
    )
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 1000)
    line = install_line(found)
    assert line is not None
    assert line.count("sudo apt-get") == 2


def test_nothing_is_installed_while_something_else_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YES", "1")
    monkeypatch.setattr(prerequisites.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(prerequisites.subprocess, "run", lambda *a, **k: pytest.fail("installed something"))
    assert not prerequisites.offer(Findings(missing={"Maven": ("maven",)}, other=["Port 1 is taken"]))


@pytest.mark.parametrize("name", ["YES", "CI"])
def test_what_is_missing_is_installed_unasked_where_that_was_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(words: list[str], **_: object) -> object:
        ran.append(words)
        return subprocess.CompletedProcess(words, 0)

    for each in ("YES", "CI"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "1" if name == "YES" else "true")
    monkeypatch.setattr(prerequisites.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(prerequisites.subprocess, "run", run)
    assert prerequisites.offer(Findings(missing={"Maven": ("maven",)}))
    ((shell, _, line),) = ran
    assert shell == "sh"
    assert line.endswith("apt-get install -y --no-install-recommends maven")


def test_nobody_is_asked_where_nobody_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(prerequisites.sys.stdin, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(prerequisites.subprocess, "run", lambda *a, **k: pytest.fail("installed something"))
    assert not prerequisites.offer(Findings(missing={"Maven": ("maven",)}))


def test_ports_come_from_the_env_file_with_the_environment_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("KAFKA_PORT = 30092\nREDIS_PORT='30379'\nAPI_PORT=abc\n")
    monkeypatch.setenv("POSTGRES_PORT", "30432")
    ports = prerequisites.wanted_ports(tmp_path)
    assert ports["KAFKA_PORT"] == 30092
    assert ports["REDIS_PORT"] == 30379
    assert ports["POSTGRES_PORT"] == 30432
    assert "API_PORT" not in ports  # the settings' own check names it


def test_the_docker_stack_needs_the_ports_its_compose_file_publishes(tmp_path: Path) -> None:
    compose = yaml.safe_load((prerequisites.ROOT / "docker" / "compose.yaml").read_text())
    published = {
        name
        for service in compose["services"].values()
        for each in service.get("ports", ())
        for name in re.findall(r"127\.0\.0\.1:\$\{([A-Z_]+)", each)
    }
    (tmp_path / ".env").write_text("MONITORING=true\n")
    assert set(prerequisites.wanted_ports(tmp_path, native=False)) == published
    (tmp_path / ".env").write_text("MONITORING=false\n")
    without = set(prerequisites.wanted_ports(tmp_path, native=False))
    assert published - without == {"PROMETHEUS_PORT", "GRAFANA_PORT"}
    assert "CONSOLE_PORT" not in prerequisites.wanted_ports(tmp_path, native=True)


def test_docker_is_refused_with_its_reason_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in prerequisites.docker_reason()
