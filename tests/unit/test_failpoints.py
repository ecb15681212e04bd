"""The table of failpoints, the code that passes them and the tests that die at them agree; arming is refused where it must be."""

from __future__ import annotations

import ast
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import failpoints
from core.config import PROJECT_ROOT, Settings
from core.errors import ConfigError, Transient
from core.services import SHARED
from tests.e2e import crash_rounds

PACKAGES = ("core", "streams", "activities", "workflows", "api", "cli")


def passed_in_code() -> dict[str, list[str]]:
    """Every literal given to failpoints.reached, and the modules that give it."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in (PROJECT_ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reached":
                    (name,) = node.args
                    assert isinstance(name, ast.Constant), f"{path}: name failpoints by literals"
                    found[name.value].append(path.name)
    return found


def test_the_table_holds_exactly_the_points_of_the_code() -> None:
    assert set(passed_in_code()) == set(failpoints.POINTS)


def test_no_point_is_at_two_places() -> None:
    twice = {name: places for name, places in passed_in_code().items() if len(places) > 1}
    assert not twice


def test_the_table_names_parts_that_exist() -> None:
    there = {spec.name for spec in SHARED} | crash_rounds.OWN_PARTS | {"flatten"}
    assert {part for parts in failpoints.POINTS.values() for part in parts} <= there


def test_every_point_is_in_the_matrix_for_each_part_or_in_a_test_of_its_own() -> None:
    table = {(part, point) for point, parts in failpoints.POINTS.items() for part in parts}
    left = table - crash_rounds.planned()
    assert crash_rounds.planned() <= table
    for _, point in left:
        test = PROJECT_ROOT / crash_rounds.ELSEWHERE[point.partition(".")[0]]
        assert point in test.read_text(), f"nothing dies at {point}"


def test_no_process_acts_at_two_points_of_one_round_and_all_rounds_are_played() -> None:
    played = [(service, point) for one in crash_rounds.rounds() for service, point in one.points.items()]
    assert len(played) == len(set(played))
    assert {(_part(service), point) for service, point in played} == crash_rounds.planned()


def _part(service: str) -> str:
    own = next((part for part in crash_rounds.OWN_PARTS if service.startswith(f"{part}-")), None)
    return service if own is None or service in {spec.name for spec in SHARED} else own


@pytest.fixture
def armed(settings: Settings) -> Iterator[Settings]:
    yield settings.model_copy(update={"failpoints": "file"})
    failpoints.arm(settings.model_copy(update={"failpoints": ""}), "portfolio")


def lay(settings: Settings, service: str, point: str, action: str) -> Path:
    folder = failpoints.folder(settings, service)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / point).write_text(action)
    return folder / point


async def test_a_file_arms_a_running_process_for_one_pass(armed: Settings) -> None:
    failpoints.arm(armed, "portfolio")
    await failpoints.reached("place.after_send")
    file = lay(armed, "portfolio", "place.after_send", "raise")
    lay(armed, "api", "place.before_claim", "raise").unlink()
    await failpoints.reached("place.before_claim")
    with pytest.raises(Transient):
        await failpoints.reached("place.after_send")
    assert not file.exists()
    await failpoints.reached("place.after_send")


async def test_a_point_acts_on_its_pass_only(armed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    told = "place.after_send=kill:2,place.after_claim=freeze"
    failpoints.arm(armed.model_copy(update={"failpoints": told}), "portfolio")
    for _ in range(3):
        await failpoints.reached("place.after_send")
    await failpoints.reached("place.after_claim")
    assert sent == [signal.SIGKILL, signal.SIGSTOP]


@pytest.mark.parametrize("told", ["place.after_sent=kill", "place.after_send=die", "place.after_send", "=kill"])
def test_what_is_malformed_or_unknown_stops_the_start(armed: Settings, told: str) -> None:
    with pytest.raises(ConfigError):
        failpoints.arm(armed.model_copy(update={"failpoints": told}), "portfolio")


def test_no_other_target_takes_them(armed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "simulated", property(lambda _: False))
    with pytest.raises(ConfigError, match="local sandbox"):
        failpoints.arm(armed, "portfolio")
