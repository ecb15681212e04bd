"""The check that refuses code spelling two brokers' names in one place: what it catches and what it lets be."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import lint_routing


def _problems(tmp_path: Path, source: str) -> list[str]:
    path = tmp_path / "module.py"
    path.write_text(source)
    return lint_routing.check(path, "module.py")


@pytest.mark.parametrize(
    "source",
    [
        'A = "paper.signals.raw"\nB = "zerodha.signals.raw"\n',
        'A = "paper:positions"\nB = "zerodha:positions"\n',
        'A = "paper"\nB = "zerodha"\n',
        'A = "broker-paper"\nB = "orders-zerodha"\n',
        'A = "SELECT * FROM paper.orders"\nB = "zerodha.orders"\n',
        "def f(x):\n    return f'paper.orders.{x}', f'zerodha.orders.{x}'\n",
        "A = topics.signals_raw(Broker.PAPER)\nB = topics.signals_raw(broker=Broker.ZERODHA)\n",
        'A = schema(Broker.PAPER)\nB = "zerodha-order-1"\n',
    ],
)
def test_naming_both_brokers_is_refused(tmp_path: Path, source: str) -> None:
    problems = _problems(tmp_path, source)
    assert len(problems) == 1
    assert "core/routing.py" in problems[0]


@pytest.mark.parametrize(
    "source",
    [
        '"""Orders of paper and zerodha never mix: paper.orders and zerodha.orders."""\n',
        'A = "paper.signals.raw"\nB = "paper.orders.filled"\n',
        "for broker in Broker:\n    print(topics.signals_raw(broker))\n",
        'A = "paper trading is the default, zerodha is opt-in"\n',
        "if broker is Broker.PAPER or broker is Broker.ZERODHA:\n    pass\n",
    ],
)
def test_prose_one_broker_and_loops_are_fine(tmp_path: Path, source: str) -> None:
    assert _problems(tmp_path, source) == []


def test_the_modules_that_may_name_both_exist_and_no_other_does() -> None:
    for name in lint_routing.MAY_NAME_ALL:
        assert (lint_routing.PROJECT_ROOT / name).is_file()
    assert lint_routing.main() == 0
