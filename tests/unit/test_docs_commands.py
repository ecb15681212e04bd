"""What the documentation tells people to type exists: commands with their options, make targets, routes, codes of risk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from api.app import create_app
from cli.main import app
from cli.setup import ensure_env
from core.config import PROJECT_ROOT, Settings, load_settings
from core.events.topics import all_topics
from core.services import names, services
from core.trading.risk import RULES
from core.trading.types import Broker, KiteTarget
from docker.native.stack import INFRA

PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
OWN_FLAGS = {"sandbox"}
"""Commands that read their flags themselves."""


def code(text: str) -> Iterator[str]:
    """Lines of code blocks and spans of code, without their comments."""
    for number, part in enumerate(re.split(r"^```\w*$", text, flags=re.M)):
        if number % 2:
            for line in part.splitlines():
                yield line.split("#")[0].strip()
        else:
            yield from re.findall(r"`([^`\n]+)`", part)


def commands() -> Iterator[tuple[str, str]]:
    """(page, what follows `alpha-panda`)."""
    for page in PAGES:
        for line in code(page.read_text()):
            found = re.match(r"(?:\.venv/bin/)?alpha-panda (.+)$", line)
            if found:
                yield page.name, found[1]


def wrong(words: list[str]) -> str | None:
    """What of a command does not exist; None when all does."""
    at: Any = typer.main.get_command(app)
    options = {option for parameter in at.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            if word.split("=")[0] not in options | {"--help"} and at.name not in OWN_FLAGS:
                return f"{at.name} has no {word}"
        elif hasattr(at, "commands"):
            if word not in at.commands:
                return f"{at.name} has no {word}"
            at = at.commands[word]
            options |= {option for parameter in at.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return None


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_commands_exist_with_their_options(page: str, line: str) -> None:
    words = re.findall(r"--?[a-z][\w-]*|[^\s'\"]+", line.split(" | ")[0])
    assert wrong([word.strip(",;:.") for word in words]) is None


def test_commands_are_found_at_all() -> None:
    assert len(set(commands())) > 40
    assert wrong(["strategies", "set", "x", "--nonsense"]) == "set has no --nonsense"
    assert wrong(["nonsense"]) == "alpha-panda has no nonsense"


def test_make_targets_exist() -> None:
    there = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(), re.M))
    told = {
        (page.name, target)
        for page in PAGES
        for line in code(page.read_text())
        for target in re.findall(r"^make ([a-z]+)", line)
    }
    assert {target for _, target in told} >= {"up", "down", "status"}
    assert {row for row in told if row[1] not in there} == set()


def test_make_help_has_a_sentence_for_every_target() -> None:
    text = (PROJECT_ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.M)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z]+):.*## \w.{10,}$", text, re.M))


def test_routes_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    ensure_env(tmp_path)
    paths = {re.sub(r"\{[^}]+\}", "*", path) for path in create_app(load_settings()).openapi()["paths"]}
    for page in PAGES:
        for told in set(re.findall(r"/api/v1(/[a-z][\w/-]*\w)", page.read_text())):
            wanted = "/api/v1" + re.sub(r"/[A-Z][A-Z_]+", "/*", told)
            assert any(re.fullmatch(path.replace("*", "[^/]+"), wanted) for path in paths), f"{page.name}: {told}"


def test_what_a_first_start_prints_is_what_there_is() -> None:
    text = PAGES[0].read_text()
    everything = services(Settings.model_construct(active_brokers=tuple(Broker), kite_target=KiteTarget.LOCAL))
    assert f" {len(all_topics(4))} topics created" in text
    assert f" {len(everything)} of {len(everything)} ready" in text
    table = text.split("\npart  ")[1].split("```")[0]
    assert re.findall(r"^([a-z-]+) +ready", table, re.M) == [*INFRA, *names(everything)]


def test_codes_of_risk_exist() -> None:
    known = {rule.code for rule in RULES}
    for page in PAGES:
        for told in re.findall(r"(?:denied with|code) `([A-Z_]{4,})`", page.read_text()):
            assert told in known, f"{page.name}: {told}"
