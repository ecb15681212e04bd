"""An order's life: sent once, followed until the broker's book says it ended, every step published. Deterministic code only.

What is true stands in the journal; this decides what to do next. It never resends and never ends an order by a timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from core import order_work as work
    from core.order_work import (
        AlertInput,
        BrokerHint,
        CommandCall,
        CommandInput,
        CommandNext,
        CommandResult,
        LookInput,
        OrderInput,
        OrderView,
        PlaceInput,
    )
    from core.routing import broker_queue, urgent_queue
    from core.trading.commands import CommandKind
    from core.trading.types import Intent, OrderStatus

_IN_DOUBT = frozenset({OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED})
_FOLLOWED = frozenset({OrderStatus.SUBMITTED, OrderStatus.ACKED, OrderStatus.PARTIALLY_FILLED})


@dataclass(slots=True)
class _Asked:
    """A command without an outcome, and when to go on with it: at `due`, or when the order no longer stands as at `seen`."""

    command: CommandInput
    due: datetime | None = None
    seen: tuple[OrderStatus, int, str | None] | None = None
    tries: int = 0


@workflow.defn(name=work.ORDER_WORKFLOW)
class OrderWorkflow:
    """One validated signal, one order. Hints arrive as workflow signals; all else comes back from activities."""

    @workflow.init
    def __init__(self, order: OrderInput) -> None:
        self.order = order
        self.view = order.resumed or OrderView(
            status=OrderStatus.PENDING, send_no=order.send_no, quantity=order.quantity
        )
        self.story = list(order.story)
        self.hints = 0
        self.hints_served = 0
        self.looks = 0
        self.behind: asyncio.Task[Any] | None = None
        self.more_to_publish = False
        self.alerts: list[asyncio.Task[Any]] = []
        self.shown: tuple[OrderStatus, str | None] = (OrderStatus.PENDING, None)
        self.asked = [_Asked(command) for command in order.commands]

    @workflow.signal(name=work.HINT)
    def hint(self, hint: BrokerHint) -> None:
        """The broker said something about this order. Said twice or late does no harm: the book is what counts."""
        self.hints += 1
        self.looks = 0

    @workflow.signal(name=work.COMMAND)
    def command(self, command: CommandInput) -> None:
        """Somebody journalled a command. Told twice it is one; a cancel goes before all else."""
        if any(asked.command.request_id == command.request_id for asked in self.asked):
            return
        at = 0 if command.kind is CommandKind.CANCEL else len(self.asked)
        self.asked.insert(at, _Asked(command))

    @workflow.run
    async def run(self, order: OrderInput) -> OrderView:
        if order.resumed is None:
            self._tell("decided", f"{order.intent} asked by {order.requested_by}")
        else:
            self._describe()
        while not self.view.status.is_end:
            try:
                await self._step()
            except (asyncio.CancelledError, FailureError) as error:
                if not is_cancelled_exception(error):
                    raise
                self._tell(
                    "not cancelled", "a cancel in Temporal stops no order: it lives until the book shows its end"
                )
                continue
            if self._wants_a_new_run():
                carried = {
                    "resumed": self.view,
                    "story": tuple(self.story[-40:]),
                    "commands": tuple(asked.command for asked in self.asked),
                }
                workflow.continue_as_new(order.model_copy(update=carried))
        while self.asked:
            await self._carry_out(self.asked[0])
        if self.behind is not None:
            await self.behind
        await asyncio.gather(*self.alerts)
        return self.view

    def _wants_a_new_run(self) -> bool:
        """A long history goes on in a new run, once nothing of this one is on its way: news and alerts are not left behind."""
        busy = any(task is not None and not task.done() for task in (self.behind, *self.alerts))
        return workflow.info().is_continue_as_new_suggested() and not busy and not self.view.status.is_end

    # the steps ---------------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        due = self._due()
        if due is not None:
            await self._carry_out(due)
        elif self.view.status is OrderStatus.PENDING:
            await self._place()
        elif self.view.status is OrderStatus.UNKNOWN:
            await self._resolve()
        elif self.view.status in _FOLLOWED:
            await self._follow()
        else:
            await self._wait_for_a_person()

    async def _place(self) -> None:
        """Claim and send. Retried by Temporal for as long as nothing left for certain; an entry grows too old meanwhile."""
        if self.view.waits is not None:
            durations = self.order.durations
            pause = min(durations.retry_first * 2 ** min(self.looks, 12), durations.absence_spacing)
            await self._until(lambda: False, pause, "try again to exit")
            if self._due() is not None:
                return
            self.looks += 1
        await self._call(
            work.PLACE_ORDER,
            PlaceInput(order_id=self.order.order_id, send_no=self.view.send_no, durations=self.order.durations),
            summary=f"send #{self.view.send_no}: {work.headline(self.order)}",
            urgent=self.order.intent is Intent.EXIT,
        )

    async def _follow(self) -> None:
        """Wait for a hint, or for the slow fallback timer, then look at a book requested after it."""
        durations = self.order.durations
        longest = durations.first_look if self.view.lagging else durations.look_longest
        pause = min(durations.first_look * 2 ** min(self.looks, 12), longest)
        await self._until(lambda: self.hints > self.hints_served, pause, "no hint by then: read the book")
        if self.hints == self.hints_served:
            self._file()  # it rests; what was hinted at is looked at first
        if self._due() is not None:
            return
        self.hints_served = self.hints
        self.looks += 1
        await self._call(work.LOOK_AT_BOOK, self._look(), summary="read the book", urgent=True)

    async def _resolve(self) -> None:
        """Sent, no answer: look the order up by its tag until it is found, or its absence is proven."""
        durations = self.order.durations
        pause = min(durations.lookup_first * 2 ** min(self.looks, 12), durations.absence_spacing)
        await self._until(lambda: self.hints > self.hints_served, pause, "next look-up by tag")
        if self._due() is not None:
            return
        self.hints_served = self.hints
        self.looks += 1
        await self._call(work.LOOK_UP_BY_TAG, self._look(), summary="look up by tag", urgent=True)

    async def _wait_for_a_person(self) -> None:
        """UNRESOLVED: evidence ran out. A late hint, or a slow look, may still bring the order to light."""
        await self._until(
            lambda: self.hints > self.hints_served, self.order.durations.look_longest * 5, "waiting for a person"
        )
        if self._due() is not None:
            return
        self.hints_served = self.hints
        if self.view.broker_order_id is None:
            await self._call(work.LOOK_UP_BY_TAG, self._look(), summary="look up by tag", urgent=True)
        else:
            await self._call(work.LOOK_AT_BOOK, self._look(), summary="read the book", urgent=True)

    # commands ----------------------------------------------------------------------------------------------------

    def _stands(self) -> tuple[OrderStatus, int, str | None]:
        return self.view.status, self.view.send_no, self.view.broker_order_id

    def _due(self) -> _Asked | None:
        """The first command to go on with now."""
        now = workflow.now()
        for asked in self.asked:
            new = asked.due is None and asked.seen is None
            if new or (asked.due is not None and asked.due <= now) or asked.seen not in (None, self._stands()):
                return asked
        return None

    def _until_due(self, seconds: float) -> float:
        """`seconds`, or less where a command is due before."""
        now = workflow.now()
        waits = [(asked.due - now).total_seconds() for asked in self.asked if asked.due is not None]
        return max(min([seconds, *waits]), 0.001)

    async def _carry_out(self, asked: _Asked) -> None:
        """Go on with one command; what it changed of the order is shown and published."""
        durations = self.order.durations
        result = await workflow.execute_activity(
            work.CARRY_OUT,
            CommandCall(
                request_id=asked.command.request_id, order_id=self.order.order_id, durations=self.order.durations
            ),
            result_type=CommandResult,
            task_queue=urgent_queue(self.order.broker),
            start_to_close_timeout=timedelta(seconds=durations.place_timeout),
            heartbeat_timeout=timedelta(seconds=durations.heartbeat),
            retry_policy=self._soon(),
            summary=f"{asked.command.kind.lower()} asked by a person or program",
            priority=Priority(priority_key=work.URGENT if asked.command.kind is CommandKind.CANCEL else work.COMMANDED),
        )
        before = self.view
        if result.view.status.is_end or not before.status.is_end:  # an end is sticky: this answer may be the older one
            self.view = result.view
        asked.due = asked.seen = None
        if result.next is CommandNext.DONE:
            self.asked.remove(asked)
        elif result.next is CommandNext.WHEN_KNOWN:
            asked.seen = self._stands()
        else:
            pause = min(durations.first_look * 2 ** min(asked.tries, 12), durations.retry_longest * 2)
            asked.due = workflow.now() + timedelta(seconds=pause)
        asked.tries += 1
        if asked.tries == 1 or result.next is CommandNext.DONE:
            self._tell(asked.command.kind.lower(), result.told)
        if self.view != before:
            self._show(before)
        if self.view != before or result.next is CommandNext.DONE:
            await self._publish()

    # how ---------------------------------------------------------------------------------------------------------

    def _look(self) -> LookInput:
        return LookInput(
            order_id=self.order.order_id,
            send_no=self.view.send_no,
            broker_order_id=self.view.broker_order_id,
            durations=self.order.durations,
            account=self.order.account,
            target=self.order.target,
        )

    async def _until(self, condition: Callable[[], bool], seconds: float, why: str) -> None:
        """Wait for `condition`, for a command that is due, or for so long."""
        timeout = timedelta(seconds=self._until_due(seconds))
        try:
            await workflow.wait_condition(
                lambda: condition() or self._due() is not None, timeout=timeout, timeout_summary=why
            )
        except TimeoutError:
            return

    async def _call(self, name: str, argument: PlaceInput | LookInput, *, summary: str, urgent: bool) -> None:
        """One broker activity, then whatever it changed is shown and published. A new command does not wait for it."""
        durations = self.order.durations
        queue = urgent_queue(self.order.broker) if urgent else broker_queue(self.order.broker)
        handle = workflow.start_activity(
            name,
            argument,
            result_type=OrderView,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=durations.place_timeout),
            heartbeat_timeout=timedelta(seconds=durations.heartbeat),
            retry_policy=self._soon(),
            summary=summary,
            priority=Priority(priority_key=work.URGENT if urgent and name == work.PLACE_ORDER else work.NORMAL),
        )
        settled = False
        try:
            while not handle.done() and not settled:
                await workflow.wait_condition(lambda: handle.done() or self._due() is not None)
                due = None if handle.done() else self._due()
                if due is None:
                    continue
                stood = self._stands()
                await self._carry_out(due)
                # What this call was for is settled: its answer, also one that came meanwhile, would be of yesterday.
                settled = self.view.status.is_end or (name != work.PLACE_ORDER and self._stands() != stood)
        except (asyncio.CancelledError, FailureError):
            handle.cancel()
            await handle
            raise
        if settled:
            handle.cancel()
            await workflow.wait([handle])
            return
        before, self.view = self.view, handle.result()
        if self.view != before:
            self._show(before)
            await self._publish()

    def _show(self, before: OrderView) -> None:
        """Rewrite what a person sees in Temporal UI, and alert on what a person should know."""
        view, order = self.view, self.order
        if (view.status, view.filled_quantity, view.send_no) != (before.status, before.filled_quantity, before.send_no):
            self.looks = 0
            filled = f"{view.filled_quantity}/{view.quantity}"
            told = f"filled {filled} at {_money(view.average_price)}" if view.filled_quantity else (view.reason or "")
            self._tell(view.status, told)
        elif view.evidence != before.evidence:
            self._describe()
        if not order.files_late or view.status.is_end or view.status in _IN_DOUBT:
            self._file()
        name = work.headline(order)
        if view.missing and not before.missing:
            self._alert(
                "order_missing",
                f"{name}: {view.evidence}",
                "Look at the order in Kite; it is followed until its day ends.",
            )
        if view.waits is not None and before.waits is None:
            self._alert(
                "exit_waits",
                f"{name}: {view.waits}",
                "Settle that order first: `alpha-panda resolve` if a person must.",
            )
        if view.unexited is not None and before.unexited is None:
            self._alert(
                "position_left", f"{name}: {view.unexited}", "No exit closes it: exit again, or close it in Kite."
            )
        if view.status is before.status:
            return
        if view.status is OrderStatus.UNKNOWN:
            self._alert(
                "order_unknown",
                f"{name}: sent, no answer",
                "Nothing to do: it is looked up by its tag until the book tells.",
            )
        elif view.status is OrderStatus.UNRESOLVED:
            self._alert(
                "order_unresolved", f"{name}: {view.reason}", "Look at it in Kite, then `alpha-panda resolve ORDER`."
            )
        elif view.short:
            why = f"{name} ended {view.status} at {view.filled_quantity}/{view.quantity}: {view.reason}"
            self._alert(
                "exit_short", why, "The position is still open: close it by hand or let the strategy exit again."
            )

    def _file(self) -> None:
        """Write what people search by, where it changed."""
        view = self.view
        if (view.status, view.broker_order_id) == self.shown:
            return
        updates: list[Any] = [work.SA_STATUS.value_set(view.status.value)]
        if view.broker_order_id:
            updates.append(work.SA_BROKER_ORDER.value_set(view.broker_order_id))
        workflow.upsert_search_attributes(updates)
        self.shown = (view.status, view.broker_order_id)

    def _tell(self, status: str, told: str) -> None:
        moment = f"{workflow.now():%H:%M:%S.%f}"[:-3]
        self.story.append(f"- `{moment}` UTC **{status}** {told}".rstrip())
        self._describe()

    def _describe(self) -> None:
        order, view = self.order, self.view
        money = ""
        if view.filled_quantity:
            net = view.realized_pnl - view.charges
            money = f"\n\nRealised {_money(view.realized_pnl)} − charges {_money(view.charges)} = **net {_money(net)}**"
        workflow.set_current_details(
            f"### {work.headline(order)}\n\n**{view.status}** · {order.broker} ({order.target}) · "
            f"{view.filled_quantity}/{view.quantity} filled"
            + (f" at {_money(view.average_price)}" if view.average_price is not None else "")
            + (f" · broker order `{view.broker_order_id}`" if view.broker_order_id else "")
            + money
            + (f"\n\nEvidence: {view.evidence}" if view.evidence else "")
            + "\n\n"
            + "\n".join(self.story[-60:])
        )

    def _alert(self, kind: str, message: str, action: str) -> None:
        self.alerts.append(
            asyncio.create_task(
                workflow.execute_activity(
                    work.RAISE_ALERT,
                    AlertInput(
                        kind=kind,
                        subject=str(self.order.order_id),
                        message=message,
                        action=action,
                        correlation_id=self.order.correlation_id,
                    ),
                    start_to_close_timeout=timedelta(seconds=self.order.durations.place_timeout),
                    retry_policy=self._forever(),
                    summary=f"alert: {kind}",
                )
            )
        )

    # publishing --------------------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        """Publish now, cheaply; if the log is away, go on and let a patient activity do it."""
        if self.behind is not None and not self.behind.done():
            self.more_to_publish = True
            return
        try:
            await workflow.execute_local_activity(
                work.PUBLISH_EVENTS,
                self.order.order_id,
                start_to_close_timeout=timedelta(seconds=self.order.durations.publish_timeout),
                schedule_to_close_timeout=timedelta(seconds=self.order.durations.publish_timeout),
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary="publish events",
            )
        except (
            FailureError,
            asyncio.CancelledError,
        ):  # its cause, without the ActivityError; a worker's end cancels it
            self.behind = asyncio.create_task(self._publish_patiently())

    async def _publish_patiently(self) -> None:
        """Until all is out: what was journalled while a try was on its way may have missed it."""
        self.more_to_publish = True
        while self.more_to_publish:
            self.more_to_publish = False
            await workflow.execute_activity(
                work.PUBLISH_EVENTS,
                self.order.order_id,
                start_to_close_timeout=timedelta(seconds=self.order.durations.place_timeout),
                retry_policy=self._forever(),
                summary="publish events that wait for the log",
            )

    def _soon(self) -> RetryPolicy:
        """Of calls to the broker: for ever, at short intervals."""
        return RetryPolicy(
            initial_interval=timedelta(seconds=self.order.durations.retry_first),
            maximum_interval=timedelta(seconds=self.order.durations.retry_longest),
        )

    def _forever(self) -> RetryPolicy:
        return RetryPolicy(
            initial_interval=timedelta(seconds=self.order.durations.retry_first),
            maximum_interval=timedelta(seconds=self.order.durations.publish_retry_longest),
        )


def _money(amount: Any) -> str:
    return "–" if amount is None else f"{'-' if amount < 0 else ''}₹{abs(amount):.2f}"
