"""What people read against the fold of the brokers' own trades: the portfolio in Redis, its snapshots on the log, the views. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from core.storage.redis import EVERYTHING
from core.trading.types import OrderStatus
from tests.chaos.facts import Facts, PositionName
from tests.chaos.money import Held, same

NOTHING = Held(0, Fraction(0), Fraction(0), Decimal(0))


def wrongs(facts: Facts, held: Mapping[PositionName, Held]) -> Iterator[str]:
    """In words, whatever people would read that is not so. `held` is folded from the broker's trades, by position."""
    yield from _model(facts, held)
    for name, due in held.items():
        snapshot = facts.snapshots.get(name)
        if snapshot is None:
            yield f"no snapshot of {name} on the log"
        else:
            yield from _differs(f"the last snapshot of {name}", snapshot, due)
    for name in facts.snapshots.keys() - held.keys():
        yield f"a snapshot of {name}, which the broker's trades do not make"
    yield from _views(facts)


def _model(facts: Facts, held: Mapping[PositionName, Held]) -> Iterator[str]:
    model = facts.model
    if facts.model_behind is not None:
        yield facts.model_behind
    if model is None:
        yield "Redis holds no portfolio"
        return
    shown = {(name[0], name[1], name[2].value): view for name, view in model.positions.items()}
    for name in sorted(shown.keys() | held.keys()):
        if name not in shown:
            yield f"Redis has no position {name}"
        else:
            yield from _differs(f"position {name} in Redis", shown[name], held.get(name, NOTHING))
    totals = {instance: [due for name, due in held.items() if name[0] == instance] for instance, _, _ in held}
    totals[EVERYTHING] = list(held.values())
    for instance, rows in totals.items():
        told = model.pnl.get(instance)
        if told is None:
            yield f"Redis has no PnL of {instance}"
            continue
        due: dict[str, Fraction | Decimal] = {
            "realized_pnl": sum((row.realized for row in rows), Fraction(0)),
            "charges": sum((row.charges for row in rows), Decimal(0)),
        }
        for field, value in due.items():
            if not same(getattr(told, field), value):
                yield f"PnL of {instance} in Redis: {field} {getattr(told, field)}, recomputed {float(value):.6f}"


def _differs(what: str, told: Any, due: Held) -> Iterator[str]:
    if told.quantity != due.quantity:
        yield f"{what}: {told.quantity}, the broker's trades add up to {due.quantity}"
    figures: dict[str, Fraction | Decimal] = {
        "average_price": due.average,
        "realized_pnl": due.realized,
        "charges": due.charges,
    }
    for field, value in figures.items():
        if not same(getattr(told, field), value):
            yield f"{what}: {field} {getattr(told, field)}, recomputed {float(value):.6f}"


def _views(facts: Facts) -> Iterator[str]:
    """The orders people read are where the journal has them."""
    for order_id, order in facts.journal.orders.items():
        view = facts.journal.views.get(order_id)
        if view is None:
            if order["order_seq"]:
                yield f"people are shown no order {order_id}"
        elif (view["status"], view["order_seq"]) != (order["status"], order["order_seq"]):
            status = OrderStatus(order["status"])
            yield f"people are shown {order_id} as {view['status']} #{view['order_seq']}, it is {status} #{order['order_seq']}"
