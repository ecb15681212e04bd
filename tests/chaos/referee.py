"""The referee: what happened against what was meant, order by order. Pure: facts in, breaches out. Nothing is forgiven.

Sources: the intents written before the run, and each broker's own book. The journal and the log are the accused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from core import ids
from core.events import topics
from core.routing import order_workflow_id
from core.trading.types import Broker, Intent, OrderStatus, SendState, Side
from tests.chaos import money
from tests.chaos.facts import BookOrder, Facts
from tests.chaos.money import Deal, same
from tests.chaos.plan import Planned

MOST_SENDS = 12
"""Tags of so many sends of an order are looked for in the book, whatever the journal says it sent."""

ALLOWED = Fraction(5, 100)
"""Share of intents that may end unsent beyond what the plan wrote down."""

BOOK_END = {
    "COMPLETE": {OrderStatus.FILLED},
    "CANCELLED": {OrderStatus.CANCELLED, OrderStatus.FILLED},
    "REJECTED": {OrderStatus.REJECTED},
}
"""How an order ends in the book → how it may have ended for us. Filled whole after CANCELLED is a fill that came late."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing that must never be. `order_id` is None where it concerns no single order."""

    broker: Broker
    what: str
    order_id: UUID | None = None


@dataclass(slots=True)
class Verdict:
    """What the referee found."""

    breaches: list[Breach] = field(default_factory=list)
    published: Counter[Broker] = field(default_factory=Counter)
    accepted: Counter[Broker] = field(default_factory=Counter)
    filled: Counter[Broker] = field(default_factory=Counter)
    claimed: Counter[Broker] = field(default_factory=Counter)
    duplicates: int = 0
    lost: int = 0
    unsent: Counter[str] = field(default_factory=Counter)
    """Intents without an order at the broker, by reason; `(planned)` where the plan wrote it down."""
    beyond_plan: int = 0
    unknown_s: list[float] = field(default_factory=list)
    """Seconds from each UNKNOWN to the step that ended it."""

    @property
    def too_many_unsent(self) -> bool:
        return self.beyond_plan > ALLOWED * sum(self.published.values())


def judge(plan: Iterable[Planned], published: Mapping[UUID, datetime], facts: Mapping[Broker, Facts]) -> Verdict:
    """Hold every published intent against the books, the journal and the log."""
    verdict = Verdict()
    listed = list(plan)
    for broker, found in facts.items():
        mine = [one for one in listed if one.broker is broker and one.signal_id in published]
        verdict.published[broker] = len(mine)
        _Case(found, mine, verdict).judge()
    _not_crossed(listed, facts, verdict)
    return verdict


class _Case:
    """One broker's part."""

    def __init__(self, facts: Facts, intents: list[Planned], verdict: Verdict) -> None:
        self.facts, self.intents, self.verdict = facts, intents, verdict
        self.broker = facts.broker
        self.by_tag: dict[str, list[BookOrder]] = defaultdict(list)
        for row in facts.book:
            if row.tag is not None:
                self.by_tag[row.tag].append(row)
        self.reached: dict[UUID, list[BookOrder]] = {one.order_id: self._in_book(one.order_id) for one in intents}

    def judge(self) -> None:
        self._no_strangers()
        for one in self.intents:
            self._intent(one)
            self._events(one.order_id)
        self._positions()
        self._workflows()
        for sends in self.facts.journal.sends.values():
            self.verdict.claimed[self.broker] += sum(row["claimed_at"] is not None for row in sends)

    def breach(self, what: str, order_id: UUID | None = None) -> None:
        self.verdict.breaches.append(Breach(self.broker, what, order_id))

    def _in_book(self, order_id: UUID) -> list[BookOrder]:
        tags = [ids.order_tag(order_id, number) for number in range(1, MOST_SENDS + 1)]
        return [row for tag in tags for row in self.by_tag.get(tag, [])]

    def _no_strangers(self) -> None:
        """Every tagged order in the book belongs to an intent; every order and decision of the journal too."""
        known = {row.broker_order_id for rows in self.reached.values() for row in rows}
        for row in self.facts.book:
            if row.tag is not None and row.broker_order_id not in known:
                self.breach(f"the broker holds {row.broker_order_id} with tag {row.tag}: no intent has it")
        order_ids = {one.order_id for one in self.intents}
        signals = {one.signal_id for one in self.intents}
        for order_id in self.facts.journal.orders.keys() - order_ids:
            self.breach("the journal has an order that no intent asked for", order_id)
        for signal_id in self.facts.journal.decisions.keys() - signals:
            self.breach(f"a decision on signal {signal_id}, which is not on the list")

    # one intent ------------------------------------------------------------------------------------------------------

    def _intent(self, one: Planned) -> None:
        rows = self.reached[one.order_id]
        decision = self.facts.journal.decisions.get(one.signal_id)
        order = self.facts.journal.orders.get(one.order_id)
        if len(rows) > 1:
            self.verdict.duplicates += len(rows) - 1
            self.breach(f"{len(rows)} orders at the broker for one intent", one.order_id)
        if decision is None:
            self.verdict.lost += 1
            return self.breach("an intent that nobody decided on", one.order_id)
        if not decision["accepted"]:
            if rows or order is not None:
                self.breach("denied, and yet there is an order", one.order_id)
            return self._unsent(one, f"denied: {_codes(decision['denials'])}", planned=one.may_expire)
        if order is None:
            self.verdict.lost += 1
            return self.breach("accepted by risk, and the journal has no order", one.order_id)
        status = OrderStatus(order["status"])
        if not status.is_end:
            self.breach(f"has not ended: {status}, {order['reason']}", one.order_id)
        if rows:
            self.verdict.accepted[self.broker] += 1
            self.verdict.filled[self.broker] += status is OrderStatus.FILLED
            self._sent(one, order, rows)
        else:
            self._not_sent(one, order, status)

    def _sent(self, one: Planned, order: dict[str, Any], rows: list[BookOrder]) -> None:
        """The journal tells the same end, fills and prices as the broker's book."""
        status, row = OrderStatus(order["status"]), rows[-1]
        if status not in BOOK_END.get(row.status, set()) and len(rows) == 1:
            self.breach(f"ended {status}, in the broker's book it stands at {row.status}", one.order_id)
        if row.side != one.side.value or row.instrument_token != one.instrument_token:
            self.breach("the broker's order is not what the intent asked for", one.order_id)
        if any(one.quantity < each.filled_quantity for each in rows):
            self.breach("more filled than the intent asked for", one.order_id)
        deals = [deal for each in rows for deal in deals_of(each)]
        filled = sum(deal.quantity for deal in deals)
        if filled != sum(each.filled_quantity for each in rows):
            self.breach("the broker's trades do not add up to its own order", one.order_id)
        if order["filled_quantity"] != filled:
            self.breach(f"filled {order['filled_quantity']}, at the broker {filled}", one.order_id)
        average = money.average_of(deals)
        if average is not None and not same(order["average_price"] or Decimal(0), average):
            self.breach(f"average price {order['average_price']}, at the broker {float(average):.6f}", one.order_id)
        booked = Counter(
            (fill["broker_order_id"], fill["trade_id"], fill["quantity"], fill["price"])
            for fill in self.facts.journal.fills[one.order_id]
        )
        traded = Counter((deal.broker_order_id, deal.trade_id, deal.quantity, deal.price) for deal in deals)
        if booked != traded:
            self.breach(f"fills differ: only ours {booked - traded}, only the broker's {traded - booked}", one.order_id)
        due = sum((money.charges_of(list(deals_of(each))) for each in rows), Decimal(0))
        if not same(order["charges"], due):
            self.breach(f"charges {order['charges']}, recomputed {due}", one.order_id)
        realized = sum((fill["realized_pnl"] for fill in self.facts.journal.fills[one.order_id]), Decimal(0))
        if not same(order["realized_pnl"], realized):
            self.breach(f"PnL {order['realized_pnl']}, its fills realised {realized}", one.order_id)

    def _not_sent(self, one: Planned, order: dict[str, Any], status: OrderStatus) -> None:
        """No order at the broker: the journal must say why, and have the evidence."""
        sends = self.facts.journal.sends[one.order_id]
        if order["filled_quantity"] or self.facts.journal.fills[one.order_id]:
            self.breach("fills without an order at the broker", one.order_id)
        if not order["reason"]:
            self.breach(f"{status} without an order at the broker and without a reason", one.order_id)
        if status not in {OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.CANCELLED}:
            self.verdict.lost += 1
            return self.breach(f"{status}, and no order at the broker", one.order_id)
        proven = [row for row in self.facts.journal.books_seen[one.order_id] if row["healthy"]]
        doubtful = [row for row in self._events_of(one.order_id) if row == "order.unknown"]
        refused = any(row["state"] == SendState.REFUSED for row in sends)
        if doubtful and len(proven) < 3 and not refused:
            self.breach(f"was UNKNOWN and ended {status} with {len(proven)} healthy books as evidence", one.order_id)
        why = "absence proven" if doubtful else "refused by the broker" if refused else _short(status, order["reason"])
        planned = one.may_expire or self._nothing_to_leave(one) or self._was_faulted(one)
        self._unsent(one, why, planned=planned)

    def _was_faulted(self, one: Planned) -> bool:
        """The plan told the sandbox to fail a send of this order."""
        return any(row["tag"] in self.facts.faulted for row in self.facts.journal.sends[one.order_id])

    def _nothing_to_leave(self, one: Planned) -> bool:
        """An exit whose entry never filled: it had nothing to do."""
        if one.intent is not Intent.EXIT:
            return False
        entry = next(row for row in self.intents if row.number == one.follows)
        return not any(row.filled_quantity for row in self.reached[entry.order_id])

    def _unsent(self, one: Planned, why: str, *, planned: bool) -> None:
        self.verdict.unsent[f"{why}{' (planned)' if planned else ''}"] += 1
        self.verdict.beyond_plan += not planned

    # the log ---------------------------------------------------------------------------------------------------------

    def _events_of(self, order_id: UUID) -> list[str]:
        return [event.type.value for _, event, _ in self.facts.log.get(order_id, [])]

    def _events(self, order_id: UUID) -> None:
        """Gapless by order_seq, each id once in effect, each on the topic of its type, the last one telling the final state."""
        order = self.facts.journal.orders.get(order_id)
        rows = self.facts.log.get(order_id, [])
        if order is None:
            if rows:
                self.breach("order events of an order that the journal does not have", order_id)
            return
        by_seq: dict[int, set[tuple[UUID, bytes]]] = defaultdict(set)
        for topic, event, data in rows:
            by_seq[data.order_seq].add((event.id, event.encode()))
            if topic != topics.orders_event(self.broker, event.type.value.removeprefix("order.")):
                self.breach(f"{event.type} on {topic}", order_id)
            if event.broker is not self.broker or event.id != ids.derive(order_id, event.type, data.order_seq):
                self.breach(
                    f"{event.type} #{data.order_seq} has another broker or id than its order gives it", order_id
                )
        if sorted(by_seq) != list(range(1, order["order_seq"] + 1)):
            self.breach(f"published {sorted(by_seq)}, the journal counts {order['order_seq']} steps", order_id)
        for seq, versions in by_seq.items():
            if len(versions) > 1:
                self.breach(f"step {seq} was published with different contents", order_id)
        if any(row["published_at"] is None for row in self.facts.journal.events[order_id]):
            self.breach("an event was never published", order_id)
        if rows:
            self._last_event(order_id, order)
        self.verdict.unknown_s += unknown_seconds(self.facts, order_id)

    def _last_event(self, order_id: UUID, order: dict[str, Any]) -> None:
        last = max(self.facts.log[order_id], key=lambda row: row[2].order_seq)[2].order
        told = (last.status.value, last.filled_quantity, last.average_price, last.realized_pnl, last.charges)
        holds = tuple(order[name] for name in ("status", "filled_quantity", "average_price", "realized_pnl", "charges"))
        if told != holds:
            self.breach(f"the log's last word {told} is not what the journal holds {holds}", order_id)
        fills = {
            (data.fill.broker_order_id, data.fill.trade_id): data.fill.quantity
            for _, _, data in self.facts.log[order_id]
            if data.fill is not None
        }
        if sum(fills.values()) != order["filled_quantity"]:
            self.breach("the log's fills do not add up to the order", order_id)

    # positions and workflows -------------------------------------------------------------------------------------------

    def _positions(self) -> None:
        """Quantity to the unit, average, PnL and charges to the paisa, folded anew from the broker's own trades."""
        deals: dict[tuple[str, int, str], list[Deal]] = defaultdict(list)
        for one in self.intents:
            for row in self.reached[one.order_id]:
                key = (f"{one.strategy_id}@{self.broker.value}", one.instrument_token, row.product)
                deals[key] += deals_of(row)
        held = {key: money.fold(rows) for key, rows in deals.items() if rows}
        ours = {(row["instance"], row["instrument_token"], row["product"]): row for row in self.facts.journal.positions}
        for key, position in ours.items():
            due = held.pop(key, money.Held(0, Fraction(0), Fraction(0), Decimal(0)))
            if position["quantity"] != due.quantity:
                self.breach(f"position {key}: {position['quantity']}, the broker's trades add up to {due.quantity}")
            for name, value in (
                ("average_price", due.average),
                ("realized_pnl", due.realized),
                ("charges", due.charges),
            ):
                if not same(position[name], value):
                    self.breach(f"position {key}: {name} {position[name]}, recomputed {float(value):.6f}")
        for key, due in held.items():
            self.breach(f"position {key}: the journal has none, the broker's trades add up to {due.quantity}")

    def _workflows(self) -> None:
        """One workflow an order, and none left running."""
        for order_id in self.facts.journal.orders:
            status = self.facts.workflows.get(order_workflow_id(self.broker, order_id))
            if status is None:
                self.breach("no workflow was ever started", order_id)
            elif status == "RUNNING":
                self.breach("its workflow still runs", order_id)
            elif status != "COMPLETED":
                self.breach(f"its workflow ended {status}", order_id)


def _not_crossed(plan: list[Planned], facts: Mapping[Broker, Facts], verdict: Verdict) -> None:
    """Nothing of one broker in the other's journal, topics, book or workflow ids."""
    for broker, found in facts.items():
        others = {one.order_id for one in plan if one.broker is not broker}
        foreign_tags = {ids.order_tag(order_id, number) for order_id in others for number in range(1, 4)}
        for order_id in (found.journal.orders.keys() | found.log.keys()) & others:
            verdict.breaches.append(Breach(broker, "an order of the other broker", order_id))
        for row in found.book:
            if row.tag in foreign_tags:
                verdict.breaches.append(Breach(broker, f"{row.broker_order_id} carries the other broker's tag"))
        for order_id in others:
            if order_workflow_id(broker, order_id) in found.workflows:
                verdict.breaches.append(Breach(broker, "a workflow of the other broker's order", order_id))
        for decision in found.journal.decisions.values():
            if not decision["instance"].endswith(f"@{broker.value}"):
                verdict.breaches.append(Breach(broker, f"a decision for {decision['instance']}"))


def deals_of(row: BookOrder) -> Iterator[Deal]:
    sign = Side(row.side).sign
    for trade in row.trades:
        yield Deal(trade.at, trade.trade_id, row.broker_order_id, sign, trade.quantity, trade.price)


def unknown_seconds(facts: Facts, order_id: UUID) -> list[float]:
    """For each time the order was UNKNOWN: seconds until the next step."""
    rows = {row["order_seq"]: row for row in facts.journal.events[order_id]}
    found = []
    for seq, row in rows.items():
        if row["topic"].endswith(".unknown"):
            after = rows.get(seq + 1)
            sent = next((s for s in reversed(facts.journal.sends[order_id]) if s["send_no"] > 1), None)
            ended = after["created_at"] if after else sent["claimed_at"] if sent else None
            if ended is not None:
                found.append((ended - row["created_at"]).total_seconds())
    return found


def _codes(denials: str) -> str:
    import json

    return ", ".join(row["code"] for row in json.loads(denials))


def _short(status: OrderStatus, reason: str | None) -> str:
    if "too old" in (reason or ""):
        return f"{status}: too old"
    return f"{status}: {(reason or 'no reason').split(':')[0][:60]}"
