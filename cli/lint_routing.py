"""`python -m cli.lint_routing`: refuses code that names two brokers' topics, keys, queues, schemas or users in one place.

Only the modules that exist to name them may. Looks at tokens alone, runs nothing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.config import PROJECT_ROOT
from core.trading.types import Broker

MAY_NAME_ALL = frozenset(
    {
        "core/routing.py",
        "core/events/topics.py",
        "core/trading/types.py",
        "core/config.py",
        "cli/setup.py",  # writes the settings of core/config.py
    }
)
PACKAGES = ("core", "strategies", "streams", "workflows", "activities", "control", "api", "sandbox", "cli", "docker")

_NAMES = "|".join(re.escape(broker.value) for broker in Broker)
SPELLED = re.compile(
    rf"^(?P<whole>{_NAMES})$"  # a schema, a user, a bare name
    rf"|^(?P<head>{_NAMES})[.:\-](?=.)"  # a topic, a Redis key, a workflow id
    rf"|(?:^|[\s\"'])(?P<quoted>{_NAMES})\.\w"  # a topic or a table inside a statement
    rf"|^(?:orders|broker)-(?P<queue>{_NAMES})\b",  # a queue or a process
)


@dataclass(frozen=True, slots=True)
class Naming:
    """A place where a broker is spelled out as (part of) a name."""

    broker: str
    line: int
    text: str


def _docstrings(tree: ast.AST) -> set[int]:
    """Ids of the string nodes that are prose: a statement of their own (docstrings, notes under constants)."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def namings(source: str) -> Iterator[Naming]:
    """Every string (or piece of an f-string) of the source that spells a broker's topic, key, queue, schema or user."""
    tree = ast.parse(source)
    prose = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _calls(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            for match in SPELLED.finditer(node.value):
                broker = next(text for text in match.groupdict().values() if text)
                yield Naming(broker, node.lineno, node.value)


def _naming_functions() -> frozenset[str]:
    """Functions of the two naming modules that turn a broker into a name."""
    found = set()
    for name in ("core/routing.py", "core/events/topics.py"):
        for node in ast.parse((PROJECT_ROOT / name).read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(argument.arg == "broker" for argument in node.args.args):
                found.add(node.name)
    return frozenset(found)


NAMING_FUNCTIONS = _naming_functions()


def _calls(node: ast.Call) -> Iterator[Naming]:
    """`topics.signals_raw(Broker.X)` with the broker written out names it as a string would."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if function not in NAMING_FUNCTIONS:
        return
    for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
        if (
            isinstance(argument, ast.Attribute)
            and isinstance(argument.value, ast.Name)
            and argument.value.id == "Broker"
        ):
            yield Naming(argument.attr.lower(), node.lineno, ast.unparse(node))


def check(path: Path, shown: str) -> list[str]:
    """What is wrong with one file; empty when it names at most one broker."""
    found = list(namings(path.read_text()))
    if len({row.broker for row in found}) < 2:
        return []
    lines = "".join(f"\n    line {row.line}: {row.text[:80]!r}" for row in found)
    return [
        f"{shown} spells names of more than one broker: use core/routing.py and core/events/topics.py instead.{lines}"
    ]


def main() -> int:
    problems, files = [], 0
    for package in PACKAGES:
        for path in sorted((PROJECT_ROOT / package).rglob("*.py")):
            shown = path.relative_to(PROJECT_ROOT).as_posix()
            files += 1
            if shown not in MAY_NAME_ALL:
                problems += check(path, shown)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"No code mixes brokers: {files} files looked at.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
