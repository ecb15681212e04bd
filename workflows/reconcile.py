"""Reconciliation of one broker's account: a round at the start, every minute and whenever asked, for as long as it runs. Deterministic.

Decides only when; what is true stands in the journal and at the broker. No part that is away ends it.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from core import order_work
    from core import reconcile_work as work
    from core.reconcile_work import Compared, Mended, ReconcileAsk, ReconcileInput, RoundInput, RoundResult
    from core.routing import urgent_queue


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
        mended = await self._mend(at, trouble)
        compared = await self._compare(at, trouble)
        result = RoundResult(round=at, mended=mended, compared=compared, trouble=tuple(trouble))
        self._tell(", ".join(reasons), await self._report(result))

    async def _mend(self, at: RoundInput, trouble: list[str]) -> Mended | None:
        try:
            found: Mended = await workflow.execute_activity(
                work.MEND_ORDERS,
                at,
                result_type=Mended,
                start_to_close_timeout=timedelta(seconds=self.durations.step_timeout),
                schedule_to_close_timeout=timedelta(seconds=self.durations.step_timeout),
                retry_policy=RetryPolicy(maximum_attempts=2),
                summary="publish and start what was left behind",
            )
            return found
        except ActivityError as error:
            trouble.append(f"orders left behind were not looked for: {_words(error)}")
            return None

    async def _compare(self, at: RoundInput, trouble: list[str]) -> Compared | None:
        try:
            found: Compared = await workflow.execute_activity(
                work.COMPARE_WITH_BROKER,
                at,
                result_type=Compared,
                task_queue=urgent_queue(self.start.broker),
                schedule_to_close_timeout=timedelta(seconds=self.durations.read_timeout),
                start_to_close_timeout=timedelta(seconds=self.durations.read_timeout),
                heartbeat_timeout=timedelta(seconds=self.durations.read_timeout / 4),
                retry_policy=RetryPolicy(maximum_attempts=3),
                summary="compare book, trades and positions with the journal",
                priority=Priority(priority_key=order_work.NORMAL),
            )
            return found
        except ActivityError as error:
            trouble.append(f"the broker could not be read: {_words(error)}")
            return None

    async def _report(self, result: RoundResult) -> str:
        try:
            found: str = await workflow.execute_activity(
                work.REPORT_ROUND,
                result,
                result_type=str,
                start_to_close_timeout=timedelta(seconds=self.durations.step_timeout),
                schedule_to_close_timeout=timedelta(seconds=self.durations.step_timeout),
                retry_policy=RetryPolicy(maximum_attempts=3),
                summary="keep, tell and publish what was found",
            )
            return found
        except ActivityError as error:
            return f"not told: {_words(error)}"

    def _tell(self, why: str, what: str) -> None:
        self.story = [*self.story[-19:], f"- `{workflow.now():%H:%M:%S}` UTC ({why}) {what}"]
        workflow.set_current_details(
            f"### {self.start.broker} {self.start.account}: journal against broker\n\n"
            + "\n".join(reversed(self.story))
        )


def _words(error: ActivityError) -> str:
    return str(error.cause or error)[:300]
