"""A kill switch at work: cancels our orders, closes our net, looks until nothing is left, reports. Deterministic code only.

Each round decides anew from what the journal and the broker show, so it goes on after any kill. It forgets no order in doubt.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from core import kill_work as work
    from core.kill_work import AccountSeen, FinishInput, KillInput, KillView, SeenInput
    from core.order_work import RAISE_ALERT, URGENT, AlertInput
    from core.routing import urgent_queue

T = TypeVar("T")

STUCK_ROUNDS = 2
"""Rounds in a row that must say the same trouble before a person is called: a fill may be on its way."""


@workflow.defn(name=work.KILL_WORKFLOW)
class KillSwitchWorkflow:
    """One engagement of the kill switch on one broker."""

    @workflow.init
    def __init__(self, kill: KillInput) -> None:
        self.kill = kill
        self.view = kill.resumed or KillView()
        self.story = list(kill.story)
        self.stage = "begins"
        self.asked = False
        self.rounds = 0
        self.exits = self.view.exits
        self.notes: tuple[str, ...] = ()
        self.stuck_rounds = 0
        self.alerted: set[str] = set()

    @workflow.signal(name=work.LOOK)
    def look(self) -> None:
        """Somebody changed something: look now."""
        self.asked = True

    @workflow.run
    async def run(self, kill: KillInput) -> KillView:
        if kill.resumed is None:
            self._tell(f"engaged by {kill.requested_by}: {kill.reason}")
        engaged = kill.resumed is not None
        while True:
            try:
                if not engaged:
                    await self._do(work.ENGAGE, kill, None, "set the flag: no more entries")
                    engaged = True
                await self._round()
                if self.view.is_flat or self.view.released:
                    return await self._finish()
                await self._pause()
            except (asyncio.CancelledError, FailureError) as error:
                if not is_cancelled_exception(error):
                    raise
                self._tell("a cancel in Temporal does not stop a kill switch: `alpha-panda kill off --force` does")
                continue
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(
                    kill.model_copy(update={"resumed": self.view, "story": tuple(self.story[-60:])})
                )

    async def _round(self) -> None:
        """Cancel, look at the broker, then hold the journal against it and ask for what exits may go."""
        kill = self.kill
        self._at("cancelling our orders")
        self.notes = await self._do(work.CANCEL_ORDERS, kill, tuple[str, ...], "cancel our working orders")
        self._at("reading the account at the broker")
        seen = await self._do(work.SEE_ACCOUNT, kill, AccountSeen, "read positions and book", broker=True)
        self._at("closing our net")
        view = await self._do(
            work.EXIT_POSITIONS, SeenInput(kill=kill, seen=seen), KillView, "ask for exits of our net"
        )
        ours_done = not view.working and not any(net.ours for net in view.nets)
        if kill.include_foreign and ours_done and view.foreign and not view.released:
            self._at("closing what is not ours, as was typed")
            told = await self._do(
                work.CLOSE_FOREIGN, kill, tuple[str, ...], "close orders and positions that are not ours", broker=True
            )
            view = view.model_copy(update={"stuck": (*view.stuck, *told)})
        await self._show(view)

    async def _show(self, view: KillView) -> None:
        self.exits += view.exits
        before, self.view = self.view, view.model_copy(update={"exits": self.exits})
        if _moved(before) != _moved(view) or view.exits:
            self.rounds = 0
            held = sum(1 for net in view.nets if net.ours)
            asked = f"; {view.exits} exits asked" if view.exits else ""
            self._tell(f"{len(view.working)} of our orders work, {held} positions are open{asked}")
        self.stuck_rounds = self.stuck_rounds + 1 if view.stuck and view.stuck == before.stuck else 0
        self._at("waiting" if not view.is_flat else "flat")
        for words in view.closed:
            await self._alert("kill_waiting", words, "Nothing to do: the exit goes when the session opens.")
        for words in view.alerts:
            await self._alert("kill_cut", words, "Somebody else closes positions of ours: find out who, and stop it.")
        for words in view.over:
            action = "Hold the contract note against the account's positions: those it left are closed anew."
            await self._alert("kill_exit_unseen", words, action)
        if self.stuck_rounds >= STUCK_ROUNDS:
            for words in view.stuck:
                await self._alert("kill_stuck", words, "Decide it by hand; the kill switch goes on by itself then.")

    async def _pause(self) -> None:
        durations = self.kill.durations
        pause = min(durations.first_look * 2 ** min(self.rounds, 12), durations.look_longest)
        self.rounds += 1
        try:
            await workflow.wait_condition(
                lambda: self.asked,
                timeout=timedelta(seconds=pause),
                timeout_summary="next look at orders and positions",
            )
        except TimeoutError:
            return
        finally:
            self.asked = False

    async def _finish(self) -> KillView:
        view = self.view
        end = "flat: none of our orders works and our net is zero"
        if view.released:
            end = "released by a person before it was done: orders and positions stay as they are"
        self._tell(end)
        finished = FinishInput(kill=self.kill, view=view, story=tuple(self.story))
        await self._do(work.FINISH, finished, None, "write the report")
        listed = f". Not ours, left alone: {'; '.join(view.foreign)}" if view.foreign else ""
        action = "Entries stay stopped until `alpha-panda kill off`." if not view.released else "Look at what is left."
        await self._alert("kill_finished", f"{work.scope(self.kill)}: {end}{listed}", action)
        self._at("done")
        return view

    # how ---------------------------------------------------------------------------------------------------------

    async def _do(self, name: str, argument: Any, result: type[T] | None, summary: str, *, broker: bool = False) -> T:
        """One activity, tried for as long as it takes: nothing of a kill switch is given up."""
        durations = self.kill.durations
        found: T = await workflow.execute_activity(
            name,
            argument,
            result_type=result,
            task_queue=urgent_queue(self.kill.broker) if broker else None,
            start_to_close_timeout=timedelta(seconds=durations.place_timeout * 4),
            heartbeat_timeout=timedelta(seconds=durations.heartbeat),
            retry_policy=self._retry(),
            summary=summary,
            priority=Priority(priority_key=URGENT),
        )
        return found

    def _retry(self) -> RetryPolicy:
        """For as long as it takes. Both intervals, as the durations may be divided below the first one's default."""
        durations = self.kill.durations
        return RetryPolicy(
            initial_interval=timedelta(seconds=durations.retry_first),
            maximum_interval=timedelta(seconds=durations.retry_longest),
        )

    async def _alert(self, kind: str, message: str, action: str) -> None:
        """Once for each trouble."""
        if message in self.alerted:
            return
        self.alerted.add(message)
        alert = AlertInput(
            kind=kind,
            subject=str(self.kill.kill_id),
            message=message,
            action=action,
            correlation_id=self.kill.kill_id,
        )
        await workflow.execute_activity(
            RAISE_ALERT,
            alert,
            start_to_close_timeout=timedelta(seconds=self.kill.durations.place_timeout),
            retry_policy=self._retry(),
            summary=f"alert: {kind}",
        )

    # what a person sees --------------------------------------------------------------------------------------------

    def _at(self, stage: str) -> None:
        self.stage = stage
        workflow.set_current_details(self._details())

    def _tell(self, what: str) -> None:
        self.story.append(f"- `{workflow.now():%H:%M:%S.%f}` UTC {what}")
        workflow.set_current_details(self._details())

    def _details(self) -> str:
        view, kill = self.view, self.kill
        parts = [f"### Kill switch: {work.scope(kill)}", f"**{self.stage}** · by {kill.requested_by}: {kill.reason}"]
        parts += _listed("Our orders that still work", [f"{one.what}: {one.status}" for one in view.working])
        nets = [
            f"{net.instrument} {net.product}: ours {net.ours:+d}, at the broker {net.at_broker:+d}, "
            f"exits under way {net.exiting}"
            for net in view.nets
            if net.ours
        ]
        parts += _listed("Our net", nets)
        parts += _listed("Waits for", [*self.notes, *view.waits, *view.closed])
        parts += _listed("Needs a person", list(view.stuck))
        title = "Not ours, to be closed" if kill.include_foreign else "Not ours, left alone"
        parts += _listed(title, list(view.foreign))
        return "\n\n".join([*parts, "\n".join(self.story[-60:])])[:18_000]


def _moved(view: KillView) -> tuple[Any, ...]:
    """What counts as progress."""
    return view.working, [(net.instrument, net.product, net.ours) for net in view.nets], view.foreign


def _listed(title: str, rows: list[str]) -> list[str]:
    return ["\n".join([f"**{title}**", "", *(f"- {row}" for row in rows[:40])])] if rows else []
