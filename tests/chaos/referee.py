"""The referee: what happened against what was meant, order by order. Pure: facts in, breaches out. Nothing is forgiven.

Sources: the intents written before the run, and each broker's own book. The journal and the log are the accused.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from core import ids
from core.events import topics
from core.routing import order_workflow_id
from core.trading.types import Broker, Intent, OrderStatus, Side
from tests.chaos import accepted, evidence, held, money, read_models, rounds
from tests.chaos.books import BookOrder
from tests.chaos.facts import Facts
from tests.chaos.held import PositionKey
from tests.chaos.money import Deal, same
from tests.chaos.plan import Planned
from tests.chaos.verdict import Breach, Verdict

MOST_SENDS = 12
"""Tags of so many sends of an order are looked for in the book, whatever the journal says it sent."""

BOOK_END = {
    "COMPLETE": {OrderStatus.FILLED},
    "CANCELLED": {OrderStatus.CANCELLED, OrderStatus.FILLED},
    "REJECTED": {OrderStatus.REJECTED},
}
"""How an order ends in the book → how it may have ended for us. Filled whole after CANCELLED is a fill that came late."""


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
        self.legs = held.legs_by_position(intents, self.reached)
        self.by_number = {one.number: one for one in intents}
        self.known = self._known()

    def judge(self) -> None:
        self._no_strangers()
        for what in rounds.untagged_wrongs(self.facts):
            self.breach(what)
        for one in self.intents:
            self._intent(one)
            self._events(one.order_id)
        for legs in self.legs.values():
            for order_id, what in held.oversold(legs):
                self.breach(what, order_id)
        self._positions()
        self._workflows()
        for what in rounds.wrongs(self.facts):
            self.breach(what)
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
        twice = sum(not _follows(one, earlier, later) for earlier, later in itertools.pairwise(rows))
        if twice:
            self.verdict.duplicates += twice
            self.breach(f"{len(rows)} orders at the broker for one intent", one.order_id)
        if decision is None:
            self.verdict.lost += 1
            return self.breach("an intent that nobody decided on", one.order_id)
        if not decision["accepted"]:
            if rows or order is not None:
                self.breach("denied, and yet there is an order", one.order_id)
            self._could_have_exited(one, decision["decided_at"], "was denied")
            return self._unsent(one, f"denied: {_codes(decision['denials'])}", planned=False)
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
        if self._ended_between_sends(one, order, rows):
            if status is OrderStatus.CANCELLED and not self._nothing_at_the_broker(one, order):
                self._could_have_exited(one, order["ended_at"], f"ended {status} after {len(rows)} sends")
        elif status not in BOOK_END.get(row.status, set()):
            self.breach(f"ended {status}, in the broker's book it stands at {row.status}", one.order_id)
        for each in rows:
            for what in accepted.differences(one, each):
                self.breach(what, one.order_id)
        for what in self._ends_of_sends(one):
            self.breach(what, one.order_id)
        deals = [deal for each in rows for deal in deals_of(each)]
        filled = sum(deal.quantity for deal in deals)
        if filled != sum(each.filled_quantity for each in rows):
            self.breach("the broker's trades do not add up to its own order", one.order_id)
        if filled > one.quantity:
            self.breach(f"filled {filled} with {len(rows)} orders, the intent asked for {one.quantity}", one.order_id)
        whole = one.quantity if one.intent is Intent.ENTRY else sum(each.placed for each in rows)
        if status is OrderStatus.FILLED and filled != whole:
            self.breach(f"FILLED with {filled} of {whole}", one.order_id)
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

    def _ended_between_sends(self, one: Planned, order: dict[str, Any], rows: list[BookOrder]) -> bool:
        """An exit all of whose orders at the broker filled whole, and whose next send was never claimed or was refused: it had gone on."""
        last = max(self.facts.journal.sends[one.order_id], key=lambda send: int(send["send_no"]))
        unsent = last["state"] == "ABSENT" and last["claimed_at"] is None and order["status"] == "CANCELLED"
        refused = last["state"] == "REFUSED" and order["status"] == "REJECTED"
        return one.intent is Intent.EXIT and (unsent or refused) and all(map(_whole, rows))

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
        for what in self._ends_of_sends(one):
            self.breach(what, one.order_id)
        if one.intent is Intent.EXIT and status is OrderStatus.EXPIRED:
            self.breach("an exit EXPIRED: exits never do", one.order_id)
        bare = self._nothing_at_the_broker(one, order)
        mine = bare or evidence.planned(one, order, sends, self.facts.faults)
        if not mine:
            self._could_have_exited(one, order["ended_at"], f"ended {status} unsent")
        states = {row["state"] for row in sends}
        why = "absence proven" if self._doubted(one) else "refused by the broker" if "REFUSED" in states else None
        why = "CANCELLED by a person: strangers had closed it" if bare else why
        self._unsent(one, why or _short(status, order["reason"]), planned=mine or self._nothing_to_leave(one))

    def _ends_of_sends(self, one: Planned) -> Iterator[str]:
        """What of the order's sends is held absent or refused without proof."""
        doubted, looks = self._doubted(one), self.facts.journal.books_seen[one.order_id]
        for send in self.facts.journal.sends[one.order_id]:
            number = send["send_no"]
            known = self.known[send["account"], send["trading_day"]]
            of_send = [row for row in looks if row["send_no"] == number]
            wrong = evidence.what_is_wrong(send, number in doubted, of_send, known, self.facts.faults)
            if wrong is not None:
                yield wrong

    def _doubted(self, one: Planned) -> set[int]:
        """Numbers of the order's sends that were published as UNKNOWN."""
        rows = self.facts.log.get(one.order_id, [])
        return {data.order.send_no for _, _, data in rows if data.order.status is OrderStatus.UNKNOWN}

    def _known(self) -> dict[tuple[str, Any], list[datetime]]:
        """Account and trading day → when each broker order became known to the journal."""
        found: dict[tuple[str, Any], list[datetime]] = defaultdict(list)
        for sends in self.facts.journal.sends.values():
            for row in sends:
                if row["broker_order_id"] is not None and row["answered_at"] is not None:
                    found[row["account"], row["trading_day"]].append(row["answered_at"])
        return found

    def _could_have_exited(self, one: Planned, moment: datetime, how: str) -> None:
        """An exit that was not sent although fills booked by then left something to exit."""
        if one.intent is not Intent.EXIT:
            return
        legs = self.legs.get(held.position_of(one, accepted.PRODUCT), [])
        booked = 0
        for each, _ in legs:
            for fill in self.facts.journal.fills[each.order_id]:
                booked += each.side.sign * fill["quantity"] * (fill["recorded_at"] <= moment)
        left = held.may_still_exit(legs, one.side, moment)
        left = min(left, -booked * one.side.sign)
        if left > 0:
            self.breach(f"an exit {how}, and {left} were left to exit", one.order_id)

    def _nothing_at_the_broker(self, one: Planned, order: dict[str, Any]) -> bool:
        """An exit that a person cancelled when the account's net at the broker left it nothing to close: strangers had done so."""
        if one.intent is not Intent.EXIT or not order["cancel_requested"] or order["ended_at"] is None:
            return False
        net = rounds.net_at_broker(self.facts, one.instrument, one.instrument_token, order["ended_at"])
        return -net * one.side.sign <= 0

    def _nothing_to_leave(self, one: Planned) -> bool:
        """An exit whose entry never filled: it had nothing to do."""
        entry = self.by_number.get(one.follows) if one.follows is not None else None
        return entry is not None and not any(row.filled_quantity for row in self.reached[entry.order_id])

    def _unsent(self, one: Planned, why: str, *, planned: bool) -> None:
        self.verdict.unsent[f"{why}{' (planned)' if planned else ''}"] += 1
        self.verdict.beyond_plan[self.broker] += not planned

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
        """Quantity to the unit, average, PnL and charges to the paisa, folded anew from the broker's own trades: in the journal,
        and in everything people read."""
        folded: dict[PositionKey, money.Held] = {}
        for key, legs in self.legs.items():
            deals = [deal for _, row in legs for deal in deals_of(row)]
            if deals:
                folded[key] = money.fold(deals)
        names = {one.instrument_token: one.instrument for one in self.intents}
        by_name = {(instance, names[token], product): due for (instance, token, product), due in folded.items()}
        for what in read_models.wrongs(self.facts, by_name):
            self.breach(what)
        nothing = money.Held(0, Fraction(0), Fraction(0), Decimal(0))
        for position in self.facts.journal.positions:
            key = position["instance"], position["instrument_token"], position["product"]
            due = folded.pop(key, nothing)
            if position["quantity"] != due.quantity:
                self.breach(f"position {key}: {position['quantity']}, the broker's trades add up to {due.quantity}")
            for name, value in (
                ("average_price", due.average),
                ("realized_pnl", due.realized),
                ("charges", due.charges),
            ):
                if not same(position[name], value):
                    self.breach(f"position {key}: {name} {position[name]}, recomputed {float(value):.6f}")
        for key, due in folded.items():
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


def _whole(row: BookOrder) -> bool:
    return row.status == "COMPLETE" and row.filled_quantity == row.placed


def _follows(one: Planned, earlier: BookOrder, later: BookOrder) -> bool:
    """An exit is a goal: another order of it may follow one that had filled whole before. Anything else is a duplicate."""
    if one.intent is not Intent.EXIT or not _whole(earlier):
        return False
    return earlier.ended_at is not None and later.accepted_at is not None and earlier.ended_at <= later.accepted_at


def _codes(denials: str) -> str:
    return ", ".join(row["code"] for row in json.loads(denials))


def _short(status: OrderStatus, reason: str | None) -> str:
    if "too old" in (reason or ""):
        return f"{status}: too old"
    return f"{status}: {(reason or 'no reason').split(':')[0][:60]}"
