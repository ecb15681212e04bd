"""`make logs`: the files of all parts as one stream, over their rotation, readable or as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli import logs
from cli.setup import ensure_env
from core.config import load_settings
from core.errors import StopTheStart


def line(event: str, **more: Any) -> str:
    row = {"event": event, "level": "info", "timestamp": "2026-11-22T10:00:00.123456Z", "service": "portfolio", **more}
    return json.dumps(row)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    ensure_env(tmp_path)
    folder = tmp_path / "var" / "log"
    folder.mkdir(parents=True)
    return folder


def test_a_line_is_time_words_and_facts() -> None:
    shown = logs.readable("portfolio", line("filled", order_id="a1", quantity=5), "cyan").plain
    assert shown.split() == ["portfolio", "10:00:00.123", "filled", "order_id=a1", "quantity=5"]


def test_what_is_not_ours_stays_as_it_is() -> None:
    assert logs.readable("kafka", "[main] INFO started", "cyan").plain.split(maxsplit=1)[1] == "[main] INFO started"


def test_a_file_is_followed_over_its_rotation(folder: Path) -> None:
    path = folder / "portfolio.log"
    path.write_text("one\ntwo\n")
    follower = logs._Follower(path, 1)
    assert follower.past == ["two"]
    with path.open("a") as file:
        file.write("three\nfo")
    assert follower.new() == ["three"]
    with path.open("a") as file:
        file.write("ur\n")
    assert follower.new() == ["four"]
    path.rename(folder / "portfolio.log.1")
    path.write_text("five\n")
    assert follower.new() == ["five"]


def test_one_part_or_all_of_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "portfolio.log").write_text(line("filled") + "\n")
    (folder / "kafka.log").write_text("started\n")
    logs.follow(load_settings(), None, lines=5, go_on=False)
    assert set(capsys.readouterr().out.split()) >= {"portfolio", "filled", "kafka", "started"}
    logs.follow(load_settings(), "portfolio", lines=5, go_on=False, raw=True)
    assert json.loads(capsys.readouterr().out)["event"] == "filled"


def test_a_part_that_is_none_is_told_with_those_that_are(folder: Path) -> None:
    (folder / "portfolio.log").write_text("")
    with pytest.raises(StopTheStart, match=r"No log of 'portfolios'.*There are: portfolio"):
        logs.follow(load_settings(), "portfolios", lines=5, go_on=False)
