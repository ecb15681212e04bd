"""Decides whether a fault fires, counts and logs what fired, and forgets none of it over a restart. It changes nothing itself.

A rule's decisions are drawn from (seed, rule id, number of the match): the same matches in the same order fire alike.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from sandbox.fault_kinds import Family, FaultKind
from sandbox.faults import Channel, FaultRule, fits
from sandbox.orders import Order
from sandbox.store import Store
from sandbox.wire import now

MOST_LOGGED = 5_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to match: a request, an order, an update or a frame."""

    route: str | None = None
    tag: str | None = None
    symbol: str | None = None
    order_id: str | None = None
    channel: Channel = Channel.BOTH

    @classmethod
    def of(cls, order: Order, channel: Channel = Channel.BOTH) -> Facts:
        request = order.request
        return cls(None, request.tag, f"{request.exchange}:{request.tradingsymbol}", order.order_id, channel)


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule that fires on these facts. It counts as fired when `FaultEngine.record` is told that it took effect."""

    rule: FaultRule
    facts: Facts
    number: int

    @property
    def kind(self) -> FaultKind:
        return self.rule.kind

    def value(self, parameter: str) -> Any:
        return self.rule.value(parameter)

    def delay(self) -> float:
        """Seconds: `delay_s`, or drawn between it and `delay_max_s`."""
        low, high = float(self.value("delay_s")), self.value("delay_max_s")
        return low if high is None else _random(self.rule, self.number, "delay").uniform(low, float(high))


@dataclass(slots=True)
class _Live:
    """A rule at work. `given_at` is in epoch seconds: `after_s` and `for_s` go on through a restart."""

    rule: FaultRule
    given_at: float
    seen: int = 0
    chosen: int = 0
    fired: int = 0
    dirty: bool = False

    def active(self, at: float) -> bool:
        begins = self.given_at + self.rule.after_s
        return (
            at >= begins
            and not self.rule.now
            and (self.rule.for_s is None or at < begins + self.rule.for_s)
            and (self.rule.count is None or self.chosen < self.rule.count)
            and (self.rule.nth is None or self.seen < self.rule.nth)
        )

    def view(self, at: float) -> dict[str, Any]:
        shown = self.rule.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        counts = {"seen": self.seen, "fired": self.fired, "active": self.active(at)}
        return {"id": self.rule.id, "kind": str(self.rule.kind), **shown, **counts}


class FaultEngine:
    """The rules at work and the log of what they did. Call only from the event loop."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store = store
        self._seed = seed
        self._rules: dict[str, _Live] = {}
        self._given = 0
        self.fired: Counter[str] = Counter(store.fault_counts())
        for given_at, seen, chosen, fired, doc in store.fault_rules():
            self._keep(_Live(FaultRule.model_validate_json(doc), given_at, seen, chosen, fired))

    def add(self, rules: Iterable[FaultRule], *, keep: bool = False) -> list[FaultRule]:
        """Put rules to work; one whose id is there already replaces it.

        Args:
            keep: leave a rule that is there already and says the same with its counts (a scenario file after a restart).
        """
        added: list[FaultRule] = []
        with self._store.transaction():
            for given in rules:
                rule = given.model_copy(update={"id": given.id or self._next_id(), "seed": self._seed_of(given)})
                added.append(rule)
                old = self._rules.get(str(rule.id))
                if not (keep and old is not None and old.rule == rule):
                    self._keep(_Live(rule, time.time()))
                    self._save(self._rules[str(rule.id)])
        return added

    def remove(self, rule_id: str | None) -> int:
        """Take one rule away, or all; how many went. What they did stays in the log."""
        gone = [each for each in self._rules if rule_id in {None, each}]
        with self._store.transaction():
            for each in gone:
                del self._rules[each]
                self._store.delete_fault_rule(each)
        return len(gone)

    def any(self, family: Family) -> bool:
        return any(live.rule.family is family for live in self._rules.values())

    def asleep(self, family: Family) -> list[tuple[FaultRule, float]]:
        """Rules of a family that were never chosen, and when (epoch seconds) each is to act."""
        lives = [live for live in self._rules.values() if live.rule.family is family and not live.chosen]
        return [(live.rule, live.given_at + live.rule.after_s) for live in lives]

    def choose(self, family: Family, facts: Facts, kinds: Iterable[FaultKind] | None = None) -> Choice | None:
        """The first rule that fires here; those after it do not see these facts."""
        return next(self._choices(family, facts, kinds), None)

    def choose_stale(self) -> Choice | None:
        """A reading of the book that is to show orders one state back; the rule's order conditions pick the rows."""
        return next(self._choices(Family.VIEW, Facts("orders"), {FaultKind.STALE_BOOK}, whole=True), None)

    def choose_all(self, family: Family, facts: Facts, kinds: Iterable[FaultKind] | None = None) -> list[Choice]:
        """Every rule that fires here."""
        return list(self._choices(family, facts, kinds))

    def take(self, rule: FaultRule, facts: Facts) -> Choice | None:
        """Let a rule act on these facts now, whatever its `rate` and `nth`, unless it acted `count` times."""
        live = self._rules.get(str(rule.id))
        if (
            live is None
            or not _matches(rule, facts)
            or (live.rule.count is not None and live.chosen >= live.rule.count)
        ):
            return None
        live.seen += 1
        live.chosen += 1
        live.dirty = True
        return Choice(rule, facts, live.seen)

    def record(self, choice: Choice, detail: str = "", order_id: str | None = None) -> None:
        """The fault took effect: counted and logged on disk."""
        facts = choice.facts
        self.record_kind(
            choice.kind, str(choice.rule.id), detail, order_id or facts.order_id, facts.tag, facts.route, facts.symbol
        )

    def record_kind(
        self, kind: FaultKind, rule_id: str, detail: str, order_id: str | None, tag: str | None,
        route: str | None = None, symbol: str | None = None,
    ) -> None:  # fmt: skip
        """As `record`, for a fault whose rule may be gone by now."""
        entry = {
            "at": now().isoformat(), "rule": rule_id, "route": route, "order_id": order_id, "tag": tag,
            "symbol": symbol, "detail": detail,
        }  # fmt: skip
        self.fired[kind] += 1
        with self._store.transaction():
            self._store.append_fault(kind, entry)
            live = self._rules.get(rule_id)
            if live is not None and live.rule.kind is kind:
                live.fired += 1
                self._save(live)

    def flush(self) -> None:
        """Counts of matches that did not fire, to disk; called every second."""
        dirty = [live for live in self._rules.values() if live.dirty]
        if dirty:
            with self._store.transaction():
                for live in dirty:
                    self._save(live)

    def rules(self, ids: Iterable[str] | None = None) -> list[dict[str, Any]]:
        at = time.time()
        return [live.view(at) for each, live in self._rules.items() if ids is None or each in ids]

    def report(self, log: int, after: int) -> dict[str, Any]:
        """Everything GET /admin/faults answers."""
        return {
            "rules": self.rules(),
            "by_kind": dict(sorted(self.fired.items())),
            "total": self.fired.total(),
            "log": self._store.fault_log(after, min(log, MOST_LOGGED)),
        }

    def _choices(
        self, family: Family, facts: Facts, kinds: Iterable[FaultKind] | None, *, whole: bool = False
    ) -> Iterator[Choice]:
        at = time.time()
        for live in list(self._rules.values()):
            rule = live.rule
            if rule.family is not family or (kinds is not None and rule.kind not in kinds):
                continue
            if not live.active(at) or not (fits(rule.routes, facts.route) if whole else _matches(rule, facts)):
                continue
            live.seen += 1
            live.dirty = True
            if rule.nth is not None and live.seen != rule.nth:
                continue
            if rule.rate < 1 and _random(rule, live.seen, "fires").random() >= rule.rate:
                continue
            live.chosen += 1
            yield Choice(rule, facts, live.seen)

    def _keep(self, live: _Live) -> None:
        self._rules.pop(str(live.rule.id), None)  # a replaced rule goes to the end
        self._rules[str(live.rule.id)] = live

    def _save(self, live: _Live) -> None:
        live.dirty = False
        doc = live.rule.model_dump_json(exclude_none=True)
        self._store.save_fault_rule(str(live.rule.id), live.given_at, live.seen, live.chosen, live.fired, doc)

    def _seed_of(self, rule: FaultRule) -> int:
        return self._seed if rule.seed is None else rule.seed

    def _next_id(self) -> str:
        while True:
            self._given += 1
            if f"f{self._given}" not in self._rules:
                return f"f{self._given}"


def _matches(rule: FaultRule, facts: Facts) -> bool:
    return (
        fits(rule.routes, facts.route)
        and fits(rule.tag, facts.tag)
        and fits(rule.symbol, facts.symbol)
        and fits(rule.order_id, facts.order_id)
        and (Channel.BOTH in {rule.channel, facts.channel} or rule.channel is facts.channel)
    )


def _random(rule: FaultRule, number: int, what: str) -> Random:
    return Random(f"{rule.seed}:{rule.id}:{number}:{what}")
