"""Which rule fires when: matching, n-th, counts, rates and windows, on a store of its own; the catalogue and its page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import PROJECT_ROOT
from sandbox.errors import SandboxStartError
from sandbox.fault_engine import Facts, FaultEngine
from sandbox.fault_kinds import CATALOGUE, Family, FaultKind
from sandbox.fault_page import table
from sandbox.faults import PARAMETERS, Channel, FaultRule, load, parse
from sandbox.store import Store

PLACE = Facts("order.place", "tag1", "NSE:INFY")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def engine(store: Store) -> FaultEngine:
    return FaultEngine(store, seed=7)


def give(engine: FaultEngine, **rule: Any) -> FaultRule:
    (kept,) = engine.add(parse({"kind": "http_503", **rule}).rules)
    return kept


def fires(engine: FaultEngine, facts: Facts, family: Family = Family.ANSWER) -> bool:
    return engine.choose(family, facts) is not None


@pytest.mark.parametrize(
    ("where", "facts", "hit"),
    [
        ({}, PLACE, True),
        ({}, Facts("orders"), False),  # a kind's own route
        ({"route": "orders"}, Facts("orders"), True),
        ({"route": "order.*"}, Facts("order.cancel"), True),
        ({"route": "*"}, Facts("user.profile"), True),
        ({"tag": "tag1"}, PLACE, True),
        ({"tag": "tag*"}, PLACE, True),
        ({"tag": "tag2"}, PLACE, False),
        ({"tag": "*"}, Facts("order.place", None, "NSE:INFY"), False),  # asked for, not there
        ({"symbol": "NSE:INFY"}, PLACE, True),
        ({"symbol": "NSE:PANDA*"}, PLACE, False),
        ({"symbol": "NSE:INFY", "tag": "tag2"}, PLACE, False),  # all that is asked for must hold
        ({"order_id": "9"}, PLACE, False),
        ({"route": "order.cancel", "order_id": "9"}, Facts("order.cancel", order_id="9"), True),
    ],
)
def test_a_rule_fires_where_it_applies(engine: FaultEngine, where: dict[str, Any], facts: Facts, hit: bool) -> None:
    give(engine, **where)
    assert fires(engine, facts) is hit


@pytest.mark.parametrize(
    ("when", "fired"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 3}, [3]),
        ({"count": 2}, [1, 2]),
        ({"after_s": 60}, []),
        ({"for_s": 60, "count": 4}, [1, 2, 3, 4]),
    ],
)
def test_a_rule_fires_when_it_says(engine: FaultEngine, when: dict[str, Any], fired: list[int]) -> None:
    give(engine, **when)
    assert [n for n in range(1, 7) if fires(engine, PLACE)] == fired


def test_a_window_opens_and_closes(engine: FaultEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    give(engine, after_s=10, for_s=5)
    began = time.time()
    seen = []
    for later in (0, 9, 11, 14, 16):
        monkeypatch.setattr(time, "time", lambda later=later: began + later)
        seen.append(fires(engine, PLACE))
    assert seen == [False, False, True, True, False]


def test_a_rate_is_drawn_from_the_seed_and_nothing_else(tmp_path: Path) -> None:
    def run(folder: str, seed: int) -> list[bool]:
        store = Store(tmp_path / folder)
        engine = FaultEngine(store, seed)
        give(engine, id="r", rate=0.2)
        drawn = [fires(engine, PLACE) for _ in range(1000)]
        store.close()
        return drawn

    first = run("a", 7)
    assert first == run("b", 7)
    assert first != run("c", 8)
    assert 150 < sum(first) < 250


def test_the_first_rule_that_fires_hides_the_match_from_those_after_it(engine: FaultEngine) -> None:
    first, second = give(engine, nth=2), give(engine)
    rules = [choice.rule.id for _ in range(3) if (choice := engine.choose(Family.ANSWER, PLACE))]
    assert rules == [second.id, first.id, second.id]
    assert [(each["seen"]) for each in engine.rules()] == [2, 2]


def test_a_channel_matches_itself_and_both(engine: FaultEngine) -> None:
    give(engine, kind="update_lost", channel="frame")
    assert fires(engine, Facts(channel=Channel.FRAME), Family.UPDATE)
    assert not fires(engine, Facts(channel=Channel.POSTBACK), Family.UPDATE)


def test_what_fired_is_counted_by_kind_and_survives_a_new_start(store: Store, engine: FaultEngine) -> None:
    rule = give(engine, nth=2)
    for _ in range(2):
        if (choice := engine.choose(Family.ANSWER, PLACE)) is not None:
            engine.record(choice, "why", "order9")
    engine.remove(None)
    give(engine, id=rule.id, kind="http_429", count=1)
    assert fires(engine, PLACE)
    engine.flush()
    again = FaultEngine(store, seed=7)
    assert not fires(again, PLACE)  # its count is spent
    report = again.report(log=10, after=0)
    assert (report["by_kind"], report["total"]) == ({"http_503": 1}, 1)
    (entry,) = report["log"]
    assert (entry["kind"], entry["order_id"], entry["tag"], entry["detail"]) == ("http_503", "order9", "tag1", "why")
    assert again.report(log=10, after=entry["seq"])["log"] == []


def test_a_delay_lies_between_its_bounds(engine: FaultEngine) -> None:
    give(engine, kind="late_in_book", delay_s=0.1, delay_max_s=60)
    delays = [choice.delay() for _ in range(200) if (choice := engine.choose(Family.ORDER, PLACE))]
    assert min(delays) >= 0.1
    assert max(delays) <= 60
    assert max(delays) - min(delays) > 40


def test_a_scenario_seeds_its_rules_and_names_them(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"seed": 5, "rules": [{"kind": "http_429"}, {"id": "mine", "kind": "http_502", "seed": 6}]}')
    assert [(rule.id, rule.seed) for rule in load(path)] == [("scenario-1", 5), ("mine", 6)]
    path.write_text('{"rules": [{"kind": "http_429", "delay_s": 3}]}')
    with pytest.raises(SandboxStartError, match=r"plan\.json cannot be used.*does not read delay_s"):
        load(path)


def test_every_kind_is_in_the_catalogue_and_reads_only_known_parameters() -> None:
    assert set(CATALOGUE) == set(FaultKind)
    for spec in CATALOGUE.values():
        assert set(spec.defaults) <= set(PARAMETERS)


def test_the_page_lists_every_kind_as_the_catalogue_has_it() -> None:
    page = (PROJECT_ROOT / "docs" / "sandbox-faults.md").read_text()
    assert table() in page, "run: python -m sandbox.fault_page"


def test_every_example_of_the_page_is_a_rule_that_is_taken() -> None:
    for kind, spec in CATALOGUE.items():
        (rule,) = parse(spec.example(kind)).rules
        assert rule.kind is kind
