"""The documentation keeps step with the code: settings, metrics, alerts and states are all described, links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import metrics
from core.alerting.channels import SCHEMES
from core.alerting.kinds import CRITICAL, INFO
from core.brokers import order_life_page
from core.config import PROJECT_ROOT, Settings
from core.trading.orders import TRANSITIONS

DOCS = PROJECT_ROOT / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
WRONG = (DOCS / "when-things-go-wrong.md").read_text()
PACKAGES = (
    "core",
    "strategies",
    "streams",
    "workflows",
    "activities",
    "control",
    "api",
    "sandbox",
    "tests",
    "docker",
    "docs",
    "cli",
)


def default_shown(name: str) -> str | None:
    """What the table says of a setting; None where its default is told in words."""
    field = Settings.model_fields[name]
    if field.is_required() or field.default in (None, ""):
        return None
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", OPERATIONS, re.M))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    shown = {name: default_shown(name) for name in Settings.model_fields}
    assert {name: rows[name.upper()].strip() for name, value in shown.items() if value} == {
        name: f"`{value}`" for name, value in shown.items() if value
    }


def test_every_metric_is_listed() -> None:
    listed = set(re.findall(r"^\| `(alpha_panda_\w+?)(?:_total)?`", OPERATIONS, re.M))
    there = {value._name for value in vars(metrics).values() if hasattr(value, "_labelnames")}
    assert listed == there


def alert_kinds() -> Iterator[str]:
    """First arguments of every call that raises an alert, as literals in the code."""
    for package in ("core", "streams", "workflows", "activities", "api"):
        for path in (PROJECT_ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if (
                    node.func.attr in {"raise_", "raise_stored", "_alert"}
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    yield str(node.args[0].value)


def test_every_alert_says_what_to_do() -> None:
    table = WRONG.split("\n## An alert comes")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| `([\w.-]+)` \|", table, re.M))
    assert described == set(alert_kinds())


def test_critical_alerts_are_marked() -> None:
    table = WRONG.split("\n## An alert comes")[1].split("\n## ")[0]
    marked = set(re.findall(r"^\| `([\w.-]+)` \| ! ", table, re.M))
    assert marked == CRITICAL
    assert set(alert_kinds()) | {"test"} >= CRITICAL | INFO


def test_the_channels_listed_are_those_taken() -> None:
    text = OPERATIONS.split("\nTaken are ")[1].split(".")[0]
    named = re.findall(r"`(\w+)(\(s\))?`", text)
    assert {name for name, _ in named} | {f"{name}s" for name, both in named if both} == set(SCHEMES)


def test_the_state_table_is_the_codes_own() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| ([^|]+) \|$", (DOCS / "architecture.md").read_text(), re.M))
    there = {before.value: {after.value for after in afters} for before, afters in TRANSITIONS.items()}
    assert {before: set(re.findall(r"`([A-Z_]+)`", afters)) for before, afters in rows.items()} == there


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_folder_says_what_it_is(folder: str) -> None:
    text = (PROJECT_ROOT / folder / "README.md").read_text()
    assert 5 <= len(text.splitlines()) <= 20


@pytest.mark.parametrize(
    "path",
    [PROJECT_ROOT / "README.md", *DOCS.glob("*.md"), *(PROJECT_ROOT / each / "README.md" for each in PACKAGES)],
    ids=str,
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in file:
            continue
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_page_of_an_orders_life_is_the_codes_own() -> None:
    text = order_life_page.PAGE.read_text()
    assert order_life_page.page(text) == text, "run `python -m core.brokers.order_life_page`"
