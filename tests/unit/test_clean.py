"""`make clean` removes what can be made again and never data, unless DATA=1 and the typed words ask for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker import clean
from docker.clean import CONFIRMATION, Refused


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, which is its own home too: installed, with data."""
    monkeypatch.setattr(clean, "ROOT", tmp_path)
    for folder in (".venv/bin", ".tools", "core/__pycache__", "var/data/postgres", ".test-home-1/var", ".git"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".env").write_text("KAFKA_PORT=1\n")
    (tmp_path / "core" / "ids.py").write_text("")
    return tmp_path


def there(project: Path, *names: str) -> set[str]:
    return {name for name in names if (project / name).exists()}


def typed(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr("builtins.input", lambda _: words)


REMADE = (".venv", ".tools", "core/__pycache__", ".test-home-1")
KEPT = (".env", ".git", "core/ids.py")


def test_it_removes_what_can_be_made_again_and_no_data(project: Path) -> None:
    clean.clean(project, data=False)
    assert there(project, *REMADE) == set()
    assert there(project, *KEPT, "var/data/postgres") == {*KEPT, "var/data/postgres"}


@pytest.mark.parametrize("words", ["", "y", "yes", CONFIRMATION.upper()])
def test_data_goes_only_for_the_typed_words(project: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    typed(monkeypatch, words)
    with pytest.raises(Refused, match="nothing was removed"):
        clean.clean(project, data=True)
    assert there(project, *REMADE, *KEPT, "var/data/postgres") == {*REMADE, *KEPT, "var/data/postgres"}


def test_with_the_typed_words_data_goes_and_settings_stay(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, CONFIRMATION)
    clean.clean(project, data=True)
    assert there(project, *REMADE, "var") == set()
    assert there(project, *KEPT) == set(KEPT)


@pytest.fixture
def running(project: Path) -> Iterator[None]:
    """A process that a supervisor's pid file names and whose command line names the home."""
    process = subprocess.Popen([sys.executable, "-c", "input()", str(project / "var")], stdin=subprocess.PIPE)
    (project / "var" / "run").mkdir()
    (project / "var" / "run" / "supervisord.pid").write_text(str(process.pid))
    yield
    process.kill()
    process.communicate()


@pytest.mark.usefixtures("running")
def test_nothing_goes_while_a_stack_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, CONFIRMATION)
    with pytest.raises(Refused, match="`make down` first"):
        clean.clean(project, data=True)
    assert there(project, *REMADE, "var/data/postgres") == {*REMADE, "var/data/postgres"}
