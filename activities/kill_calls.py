"""What a kill switch's workflow may ask of the journal and the log: flag, cancels, exits, report. Every step may be repeated.

Sends nothing to a broker: cancels are commands to the orders' workflows, exits are signals that go through risk like any other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client

from activities.heartbeats import beating
from activities.kill_holdings import holdings, in_scope, key_of, what
from core import failpoints, ids, kill_work, logging
from core.clock import utc_now
from core.events import topics
from core.events.envelope import EventType, make
from core.kill_work import AccountSeen, FinishInput, KillInput, KillNet, KillOrder, KillView, SeenInput
from core.messaging.producer import EventProducer
from core.order_commands import ask
from core.storage import kill as store
from core.storage.commands import CommandOutcome, read_command
from core.storage.kill import Attempt, Business, KillRecord
from core.storage.kill_foreign import foreign_in_words
from core.trading.calendar import TradingCalendar, session_kind
from core.trading.commands import CommandKind
from core.trading.kill import Exit, Key, Net, plan
from core.trading.signals import Signal
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Product, SendState, Validity

log = logging.get(__name__)

AT_ONCE = 8
"""Cancels asked for side by side: fewer than the journal has connections."""

_RESTING = frozenset({OrderStatus.SUBMITTED, OrderStatus.ACKED, OrderStatus.PARTIALLY_FILLED})


def record_of(kill: KillInput) -> KillRecord:
    """The journal's row of a kill switch that begins now."""
    return KillRecord(
        kill.kill_id, kill.account, kill.strategy_id, kill.requested_by, kill.reason, kill.include_foreign,
        utc_now(), None, None, None, None, None,
    )  # fmt: skip


@dataclass(slots=True)
class KillCalls:
    """The activities of one broker's orders queue that serve kill switches."""

    engine: AsyncEngine
    broker: Broker
    client: Client
    producer: EventProducer
    calendar: TradingCalendar
    target: str
    """Where this broker's orders go (core.routing.target)."""

    @property
    def activities(self) -> list[Callable[..., Any]]:
        return [self.engage, self.cancel_orders, self.exit_positions, self.finish]

    @activity.defn(name=kill_work.ENGAGE)
    async def engage(self, kill: KillInput) -> None:
        """Set the flag, if whoever asked has not done it already."""
        self._bind(kill)
        async with beating():
            await store.engage(self.engine, record_of(kill))
        await failpoints.reached("kill.after_engage")

    @activity.defn(name=kill_work.CANCEL_ORDERS)
    async def cancel_orders(self, kill: KillInput) -> tuple[str, ...]:
        """Ask a cancel of every open order of the scope, under an id derived from switch and order. Returns what is to be told."""
        self._bind(kill)
        async with beating():
            record = await store.read_kill(self.engine, kill.kill_id)
            if record is None or record.released_at is not None:
                return ()  # orders made after a release are none of its business
            business = await store.open_business(self.engine, kill.account)
            now, gate = utc_now(), asyncio.Semaphore(AT_ONCE)
            wanted = [
                order
                for order in business.orders
                if in_scope(kill.strategy_id, order) and self._to_cancel(kill, order, now)
            ]

            async def one(order: dict[str, Any]) -> str:
                async with gate:
                    return await self._cancel(kill, order)

            told = await asyncio.gather(*(one(order) for order in wanted))
            return tuple(words for words in told if words)

    def _to_cancel(self, kill: KillInput, order: dict[str, Any], now: datetime) -> bool:
        """Everything but the exits of kill switches; of those, what rests unfilled in an open session for too long."""
        if order["source"] != kill_work.SOURCE:
            return True
        patient = (now - order["updated_at"]).total_seconds() <= kill.durations.look_longest
        return OrderStatus(order["status"]) in _RESTING and not patient and self._is_open(order["exchange"], now)

    async def _cancel(self, kill: KillInput, order: dict[str, Any]) -> str:
        for number in range(1000):
            request_id = ids.derive(kill.kill_id, "cancel", order["order_id"], number)
            before = await read_command(self.engine, request_id)
            if before is not None and before.outcome is CommandOutcome.NOT_APPLIED:
                continue  # it did not end the order: asked once more, under the next id
            await failpoints.reached("kill.before_cancel")
            asked = await ask(
                self.client, self.engine, self.broker,
                request_id=request_id, order_id=order["order_id"], kind=CommandKind.CANCEL, parameters={},
                requested_by=f"kill:{kill.requested_by}", reason=kill.reason,
            )  # fmt: skip
            await failpoints.reached("kill.after_cancel")
            if before is None:
                log.info("cancel asked", order_id=str(order["order_id"]), what=what(order))
            gone = asked.workflow_gone and not asked.is_finished
            return f"{what(order)}: its workflow is gone, reconciliation starts it again" if gone else ""
        return f"{what(order)}: a thousand cancels did not end it"

    @activity.defn(name=kill_work.EXIT_POSITIONS)
    async def exit_positions(self, asked: SeenInput) -> KillView:
        """Hold the journal against what the broker showed, and ask for the exits that may go now. The broker was read first."""
        kill = asked.kill
        self._bind(kill)
        async with beating():
            record = await store.read_kill(self.engine, kill.kill_id)
            business = await store.open_business(self.engine, kill.account)
            mine = [order for order in business.orders if in_scope(kill.strategy_id, order)]
            working = [_kill_order(order) for order in mine]
            nets = plan(holdings(kill.broker, kill.strategy_id, business), _at_broker(asked.seen))
            if record is None or record.released_at is not None:
                return KillView(working=tuple(working), nets=tuple(_kill_net(net) for net in nets), released=True)
            alerts = await self._cut(kill, mine, nets, asked.seen)
            waits, stuck, exits = await self._exits(kill, mine, nets, asked.seen)
            late, foreign = await self._not_in_the_journal(kill, asked.seen, business)
            foreign_open, over = await foreign_in_words(self.engine, kill.kill_id) if kill.include_foreign else ((), ())
            return KillView(
                working=(*working, *late),
                nets=tuple(_kill_net(net) for net in nets),
                waits=waits,
                closed=tuple(self._closed(mine)),
                stuck=stuck,
                exits=exits,
                alerts=alerts,
                foreign=(*foreign, *foreign_open),
                foreign_open=kill.include_foreign and bool(foreign or foreign_open),
                over=over,
            )

    async def _cut(
        self, kill: KillInput, mine: list[dict[str, Any]], nets: tuple[Net, ...], seen: AccountSeen
    ) -> tuple[str, ...]:
        """Cancel exits of kill switches that were not sent yet where all that are under way would pass the broker's net, which somebody
        made smaller meanwhile. What is left is planned anew, once they have ended. Returns what a person should know."""
        told: list[str] = []
        for net in nets:
            if net.exiting <= net.closable or net.key in _moving(seen):
                continue
            waiting = [
                order
                for order in mine
                if order["source"] == kill_work.SOURCE
                and key_of(order) == net.key
                and order["send_state"] == SendState.INTENT
            ]
            for order in waiting:
                await self._cancel(kill, order)
                told.append(
                    f"{net.key[0]} {net.key[1]}: the broker's net is {net.at_broker:+d} now, which leaves {net.closable} of ours to "
                    f"close: {what(order)} was not sent yet and is cancelled; what is left is planned anew"
                )
        return tuple(told)

    async def _exits(
        self, kill: KillInput, mine: list[dict[str, Any]], nets: tuple[Net, ...], seen: AccountSeen
    ) -> tuple[tuple[str, ...], tuple[str, ...], int]:
        waits: list[str] = []
        stuck: list[str] = []
        exits = 0
        for order in mine:
            if OrderStatus(order["status"]) is OrderStatus.UNRESOLVED:
                stuck.append(
                    f"{what(order)} is UNRESOLVED ({order['reason']}): `alpha-panda resolve {order['order_id']}`"
                )
        moving, flattened = _moving(seen), _flattened(seen)
        for net in nets:
            if net.key in flattened:
                waits.append(f"{net.key[0]} {net.key[1]}: what `flatten --direct` closed of it is booked first")
                continue
            for exit_ in net.exits:
                told, is_new = await self._exit(kill, exit_)
                waits += [told] if told else []
                exits += is_new
            if net.note and not net.exits:
                words = f"{net.key[0]} {net.key[1]}: {net.note}"
                held_back = net.exiting or net.key in moving or any(key_of(order) == net.key for order in mine)
                (waits if held_back else stuck).append(words)
        return tuple(dict.fromkeys(waits)), tuple(dict.fromkeys(stuck)), exits

    async def _exit(self, kill: KillInput, wanted: Exit) -> tuple[str, bool]:
        """Publish the next exit of one position, unless the last one still works. Returns what to tell, and whether it went out."""
        held = wanted.held
        position = (held.instance, held.instrument_token, held.product.value)
        last = await store.last_attempt(self.engine, kill.kill_id, position)
        if last is not None and last.working:
            return "", False
        if last is not None and not last.accepted and _seconds(last) < kill.durations.look_longest:
            return f"the exit of {held.quantity} {held.instrument} was denied: {last.denials}", False
        number = 0 if last is None else last.number + 1
        await failpoints.reached("kill.before_exit")
        await self.producer.send(topics.signals_raw(self.broker), _event(self.broker, kill, wanted, position, number))
        await failpoints.reached("kill.after_exit")
        log.info("exit asked", instance=held.instance, side=wanted.side.value, quantity=wanted.quantity, attempt=number)
        return "", True

    def _closed(self, mine: Iterable[dict[str, Any]]) -> Iterable[str]:
        """Exits that wait for a session."""
        now = utc_now()
        for order in mine:
            if order["source"] == kill_work.SOURCE and not self._is_open(order["exchange"], now):
                opens = self.calendar.next_open(session_kind(Exchange(order["exchange"])), now)
                yield f"{order['exchange']} is closed: {what(order)} waits for {opens:%Y-%m-%d %H:%M} UTC"

    def _is_open(self, exchange: str, now: datetime) -> bool:
        return self.calendar.phase(session_kind(Exchange(exchange)), now).is_open

    async def _not_in_the_journal(
        self, kill: KillInput, seen: AccountSeen, business: Business
    ) -> tuple[list[KillOrder], list[str]]:
        """Working rows of the book: ours that the journal thinks ended, and those that are not ours; and positions not ours."""
        tags = [tag for row in seen.working for tag in row.tags]
        names = [row.broker_order_id for row in seen.working]
        rows = await store.sends_known(self.engine, kill.account, self.target, tags, names)
        open_ids = {order["order_id"] for order in business.orders}
        late: list[KillOrder] = []
        foreign: list[str] = []
        for row in seen.working:
            send = next((rows[name] for name in (row.broker_order_id, *row.tags) if name in rows), None)
            if send is None:
                foreign.append(f"order {row.what} ({row.broker_order_id})")
            elif send.order_id not in open_ids and kill.strategy_id in (None, send.strategy_id):
                late.append(
                    KillOrder(order_id=send.order_id, what=row.what, status="ended here, working at the broker")
                )
        for unbooked in seen.unbooked:
            if unbooked.order_id not in open_ids and kill.strategy_id in (None, unbooked.strategy_id):
                late.append(
                    KillOrder(order_id=unbooked.order_id, what=unbooked.what, status="ended here, fills not booked yet")
                )
        ours: dict[Key, int] = defaultdict(int)
        for position in business.positions:
            ours[key_of(position)] += position["quantity"]
        moving = {key_of(order) for order in business.orders} | _moving(seen)
        for key, quantity in _at_broker(seen).items():
            if quantity != ours[key] and key not in moving:
                foreign.append(f"position {quantity - ours[key]:+d} {key[0]} {key[1]}")
        return late, foreign

    @activity.defn(name=kill_work.FINISH)
    async def finish(self, finished: FinishInput) -> None:
        """Write the report. The flag stays set until a person lifts it."""
        kill, view = finished.kill, finished.view
        self._bind(kill)
        await failpoints.reached("kill.before_finish")
        report = view.model_dump(mode="json") | {"story": list(finished.story)}
        async with beating():
            await store.finish_kill(self.engine, kill.kill_id, report)
        log.warning(
            "kill switch finished", scope=kill_work.scope(kill), released=view.released, foreign=list(view.foreign)
        )

    def _bind(self, kill: KillInput) -> None:
        structlog.contextvars.bind_contextvars(broker=self.broker.value, correlation_id=str(kill.kill_id))


def _at_broker(seen: AccountSeen) -> dict[Key, int]:
    return {(row.instrument, Product(row.product)): row.quantity for row in seen.positions}


def _moving(seen: AccountSeen) -> set[Key]:
    """Positions with fills of ours that are not booked: the broker's net there says nothing of what is not ours."""
    return {(row.instrument, Product(row.product)) for row in seen.unbooked} | _flattened(seen)


def _flattened(seen: AccountSeen) -> set[Key]:
    return {(name, Product(product)) for name, product in seen.flattened}


def _kill_order(order: dict[str, Any]) -> KillOrder:
    return KillOrder(
        order_id=order["order_id"],
        what=f"{what(order)} ({order['filled_quantity']}/{order['quantity']} filled)",
        status=order["status"],
        ours_to_wait_for=order["source"] == kill_work.SOURCE,
    )


def _kill_net(net: Net) -> KillNet:
    return KillNet(
        instrument=net.key[0],
        product=net.key[1].value,
        ours=net.ours,
        at_broker=net.at_broker,
        exiting=net.exiting + sum(each.quantity for each in net.exits),
        note=net.note,
    )


def _seconds(last: Attempt) -> float:
    return (utc_now() - last.decided_at).total_seconds()


def _event(broker: Broker, kill: KillInput, wanted: Exit, position: tuple[object, ...], number: int) -> Any:
    held = wanted.held
    exchange, _, symbol = held.instrument.partition(":")
    signal = Signal(
        signal_id=store.exit_signal_id(kill.kill_id, position, number),
        strategy_id=held.instance.rpartition("@")[0],
        instance=held.instance,
        strategy_version=0,
        instrument=held.instrument,
        instrument_token=held.instrument_token,
        exchange=Exchange(exchange),
        tradingsymbol=symbol,
        side=wanted.side,
        intent=Intent.EXIT,
        quantity=wanted.quantity,
        order_type=OrderType.MARKET,
        product=held.product,
        validity=Validity.DAY,
        slot=f"kill:{kill.kill_id}",
        leg=str(number),
        origin_at=utc_now(),
        age_limit_s=60.0,
        source=kill_work.SOURCE,
        reason=f"kill switch by {kill.requested_by}: {kill.reason}",
    )
    return make(
        EventType.SIGNAL_RAW,
        signal,
        id=signal.signal_id,
        key=f"{held.instance}:{held.instrument}",
        source=kill_work.SOURCE,
        correlation_id=kill.kill_id,
        causation_id=kill.kill_id,
        broker=broker,
    )
