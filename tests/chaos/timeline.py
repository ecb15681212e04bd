"""Everything known of one order in one column of times: the intent, the journal, the broker's book, the log, what our processes said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.chaos.facts import Facts
from tests.chaos.plan import Planned

MOST_LOG_LINES = 60


def timeline(order_id: UUID, intent: Planned | None, published: datetime | None, facts: Facts, logs: Path) -> list[str]:
    """Lines in the order of time."""
    rows = [*_intent(intent, published), *_journal(order_id, facts), *_book(order_id, facts), *_log(order_id, facts)]
    names = [str(order_id), *([str(intent.signal_id)] if intent else [])]
    rows += _said(names, logs)
    return [f"  {at:%H:%M:%S.%f} {text}" for at, text in sorted(rows)]


def _intent(intent: Planned | None, published: datetime | None) -> Iterator[tuple[datetime, str]]:
    if intent is not None and published is not None:
        yield (
            published,
            (
                f"intent #{intent.number} {intent.broker}: {intent.intent} {intent.side} {intent.quantity} {intent.instrument} "
                f"{intent.order_type} {intent.validity} lives {intent.age_limit_s:g} s follows {intent.follows}"
            ),
        )


def _journal(order_id: UUID, facts: Facts) -> Iterator[tuple[datetime, str]]:
    journal = facts.journal
    order = journal.orders.get(order_id)
    if order is not None:
        decision = journal.decisions.get(order["signal_id"])
        if decision is not None:
            yield decision["decided_at"], f"journal decision accepted={decision['accepted']} {decision['denials']}"
        names = ("status", "send_no", "filled_quantity", "average_price", "reason", "realized_pnl", "charges")
        yield order["updated_at"], "journal order " + ", ".join(f"{name}={order[name]}" for name in names)
    for row in journal.sends.get(order_id, []):
        at = row["claimed_at"] or (order["created_at"] if order else datetime.max.replace(tzinfo=UTC))
        yield at, f"journal send #{row['send_no']} tag {row['tag']} {row['state']} quantity {row['quantity']}"
        if row["answered_at"]:
            yield row["answered_at"], f"journal answer #{row['send_no']} {row['broker_order_id']}: {row['answer']}"
    for row in journal.books_seen.get(order_id, []):
        yield (
            row["requested_at"],
            f"journal book seen: {row['rows']} rows, healthy={row['healthy']} {row['reason'] or ''}",
        )
    for row in journal.fills.get(order_id, []):
        yield (
            row["recorded_at"],
            f"journal fill {row['trade_id']} {row['quantity']} at {row['price']} of {row['filled_at']}",
        )
    for row in journal.events.get(order_id, []):
        yield row["created_at"], f"journal event #{row['order_seq']} {row['topic']} published {row['published_at']}"


def _book(order_id: UUID, facts: Facts) -> Iterator[tuple[datetime, str]]:
    tags = {row["tag"] for row in facts.journal.sends.get(order_id, [])}
    for row in facts.book:
        if row.tag not in tags:
            continue
        at = row.trades[0].at if row.trades else datetime.max.replace(tzinfo=UTC)
        yield (
            at,
            f"BROKER {row.broker_order_id} tag {row.tag} {row.status} {row.side} {row.filled_quantity}/{row.quantity}",
        )
        for trade in row.trades:
            yield trade.at, f"BROKER trade {trade.trade_id} {trade.quantity} at {trade.price}"


def _log(order_id: UUID, facts: Facts) -> Iterator[tuple[datetime, str]]:
    for topic, event, data in facts.log.get(order_id, []):
        yield event.ts, f"log {topic} #{data.order_seq} {data.order.status} {data.order.filled_quantity} id {event.id}"


def _said(names: list[str], logs: Path) -> list[tuple[datetime, str]]:
    """Log lines of every process that name the order or its signal."""
    found: list[tuple[datetime, str]] = []
    for path in sorted(logs.glob("*.log*")):
        for line in path.read_text(errors="replace").splitlines():
            if not any(name in line for name in names):
                continue
            try:
                row: dict[str, Any] = json.loads(line)
                at = datetime.fromisoformat(row.pop("timestamp"))
            except (ValueError, KeyError, TypeError):
                continue
            short = {name: value for name, value in row.items() if name not in {"level", "logger", "correlation_id"}}
            found.append((at, f"{path.stem} said {json.dumps(short, default=str)[:300]}"))
    return found[:MOST_LOG_LINES]
