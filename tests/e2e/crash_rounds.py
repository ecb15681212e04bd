"""The plan of the crash-point matrix: which process acts at which point in which round. Says nothing about how a round is played.

In a round every named part dies (or freezes) once, at its own point, while an entry, an exit and a cancel of both brokers are under way.
Parts that each broker has of its own act for both brokers in the same round: they share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.services import order_parts
from core.trading.types import Broker

OWN_PARTS = {spec.name.removesuffix(f"-{Broker.PAPER}") for spec in order_parts(Broker.PAPER)}
"""Parts that each broker has a process of."""

_READER = ("consume.before_handle", "consume.after_handle", "commit.before_send", "commit.after_send")
_RISK = ("risk.before_decide", "risk.after_commit", "risk.after_publish", *_READER)
_GATEWAY = ("gateway.before_start", "gateway.after_start", *_READER)
_UPDATES = ("hint.before_signal", "hint.after_signal", *_READER)
_RUNNER = (
    "runner.before_publish",
    "runner.after_publish",
    "runner.before_checkpoint",
    "runner.after_checkpoint",
)
_ORDERS = (
    "publish.before_send",
    "publish.after_send",
    "publish.after_mark",
    "reconcile.before_start",
    "reconcile.after_start",
    "reconcile.before_finish",
    "reconcile.after_finish",
)
_BROKER = (
    "modify.before_send",
    "modify.after_send",
    "place.before_claim",
    "place.after_claim",
    "place.after_send",
    "place.after_record",
    "look.before_fold",
    "look.after_fold",
    "cancel.before_send",
    "cancel.after_send",
    "reconcile.before_keep",
    "reconcile.after_keep",
)
_COLUMNS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("broker", 0, _BROKER),
    ("risk-manager", 0, _RISK),
    ("order-updates", 0, _UPDATES),
    ("order-gateway", 6, _GATEWAY),
    ("order-views", 6, _READER),
    ("orders", 5, _ORDERS),
    ("paper-exchange", 4, ("exchange.before_book", "exchange.after_book")),
    ("strategy-runner", 8, _RUNNER),
)
"""A part, the round it begins in, its points in turn. Parts before and behind each other on an order's path mostly take turns, so that a
round's deaths happen at once and not one after the other. A modification is too old after a minute: nothing else of its way acts then."""

ELSEWHERE = {
    "kill": "tests/e2e/test_kill_switch.py",
    "flatten": "tests/integration/test_flatten.py",
    "config": "tests/integration/test_strategy_changes.py",
}
"""Points off the path of an order, by the first word of their name, and the test that dies at them."""


@dataclass(frozen=True, slots=True)
class Round:
    """`points` maps each process that acts to the point it acts at."""

    number: int
    points: dict[str, str]

    def __str__(self) -> str:
        return f"{self.number:02d}-{'+'.join(sorted(set(self.points.values())))}"

    def has(self, *points: str) -> bool:
        return any(point in points for point in self.points.values())

    def at_broker(self, broker: Broker) -> str:
        """Where this broker's leased process acts; empty when it does not."""
        return self.points.get(f"broker-{broker}", "")


def rounds() -> Iterator[Round]:
    """All of them, until every column is through."""
    last = max(begins + len(points) for _, begins, points in _COLUMNS)
    for number in range(last):
        acting: dict[str, str] = {}
        for part, begins, points in _COLUMNS:
            if not begins <= number < begins + len(points):
                continue
            services = [f"{part}-{broker}" for broker in Broker] if part in OWN_PARTS else [part]
            acting |= dict.fromkeys(services, points[number - begins])
        yield Round(number + 1, acting)


def planned() -> set[tuple[str, str]]:
    """Every (part, point) of the plan."""
    return {(part, point) for part, _, points in _COLUMNS for point in points}
