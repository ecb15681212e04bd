"""Reconciliation of one broker's account: a round at the start, every minute and whenever asked, for as long as it runs. Deterministic.

Decides only when; what is true stands in the journal and at the broker. No part that is away ends it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from core import order_work
    from core import reconcile_work as work
    from core.reconcile_work import Compared, Mended, ReconcileAsk, ReconcileInput, RoundInput, RoundResult
    from core.routing import urgent_queue

T = TypeVar("T")


@workflow.defn(name=work.RECONCILE_WORKFLOW)
class ReconcileWorkflow:
    """One a broker. The signal `now` asks for a round; asks that come during a round lead to one more."""

    @workflow.init
    def __init__(self, start: ReconcileInput) -> None:
        self.start = start
        self.durations = start.durations
        self.asks = list(start.asks)
        self.last = start.last
        self.story: list[str] = []

    @workflow.signal(name=work.NOW)
    def now(self, ask: ReconcileAsk) -> None:
        """Asked twice for the same reason before the round begins, it is one round."""
        self.asks.append(ask)
        if ask.durations is not None:
            self.durations = ask.durations

    @workflow.run
    async def run(self, start: ReconcileInput) -> None:
        rounds = 0
        while True:
            await self._round()
            rounds += 1
            if rounds >= work.ROUNDS_A_RUN or workflow.info().is_continue_as_new_suggested():
                carried = {"asks": tuple(self.asks), "durations": self.durations, "last": self.last}
                workflow.continue_as_new(start.model_copy(update=carried))
            await self._until_next()

    async def _until_next(self) -> None:
        try:
            await workflow.wait_condition(
                lambda: bool(self.asks),
                timeout=timedelta(seconds=self.durations.every),
                timeout_summary="until the next round",
            )
        except TimeoutError:
            return

    async def _round(self) -> None:
        """Mend what was left behind, compare with the broker, tell. Each step goes without the others if it must."""
        asks, self.asks = self.asks, []
        now, before = workflow.now(), self.last
        self.last = now
        closed = (work.END_OF_DAY,) if before is not None and work.day_ended(before, now) else ()
        reasons = (*dict.fromkeys(ask.reason for ask in asks), *closed) or (work.EVERY_MINUTE,)
        at = RoundInput(
            round_id=workflow.uuid4(),
            broker=self.start.broker,
            account=self.start.account,
            target=self.start.target,
            reasons=reasons,
            requests=tuple(ask.request_id for ask in asks if ask.request_id is not None),
            durations=self.durations,
        )
        trouble: list[str] = []
        mended = await self._step(
            work.MEND_ORDERS, at, Mended, "publish and start what was left behind",
            attempts=2, failed="orders left behind were not looked for", trouble=trouble,
        )  # fmt: skip
        compared = await self._step(
            work.COMPARE_WITH_BROKER, at, Compared, "compare book, trades and positions with the journal",
            attempts=3, failed="the broker could not be read", trouble=trouble, at_broker=True,
        )  # fmt: skip
        result = RoundResult(round=at, mended=mended, compared=compared, trouble=tuple(trouble))
        told = await self._step(
            work.REPORT_ROUND, result, str, "keep, tell and publish what was found",
            attempts=3, failed="not told", trouble=trouble,
        )  # fmt: skip
        self._tell(", ".join(reasons), told if told is not None else trouble[-1])

    async def _step(
        self,
        name: str,
        argument: RoundInput | RoundResult,
        result: type[T],
        summary: str,
        *,
        attempts: int,
        failed: str,
        trouble: list[str],
        at_broker: bool = False,
    ) -> T | None:
        """One activity of the round. None when it was given up: then `trouble` says so, and the round goes on without it."""
        within = self.durations.read_timeout if at_broker else self.durations.step_timeout
        try:
            found: T = await workflow.execute_activity(
                name,
                argument,
                result_type=result,
                task_queue=urgent_queue(self.start.broker) if at_broker else None,
                schedule_to_close_timeout=timedelta(seconds=within),
                start_to_close_timeout=timedelta(seconds=within),
                heartbeat_timeout=timedelta(seconds=within / 4) if at_broker else None,
                retry_policy=RetryPolicy(maximum_attempts=attempts),
                summary=summary,
                priority=Priority(priority_key=order_work.NORMAL) if at_broker else Priority.default,
            )
            return found
        except ActivityError as error:
            trouble.append(f"{failed}: {_words(error)}")
            return None

    def _tell(self, why: str, what: str) -> None:
        self.story = [*self.story[-19:], f"- `{workflow.now():%H:%M:%S}` UTC ({why}) {what}"]
        workflow.set_current_details(
            f"### {self.start.broker} {self.start.account}: journal against broker\n\n"
            + "\n".join(reversed(self.story))
        )


def _words(error: ActivityError) -> str:
    return str(error.cause or error)[:300]
