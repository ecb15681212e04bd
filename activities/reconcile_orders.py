"""Reconciliation's part on the orders queue: what was left behind is set going again, and each round is kept, told and published.

Never calls a broker. Every step may be repeated: starts and hints are idempotent, a round is finished once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from core import failpoints, ids, logging, metrics, order_work, reconcile_work
from core.alerts import Alerts
from core.clock import trading_day, utc_now
from core.errors import AlphaPandaError, Transient
from core.events import topics
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import ReconciledLine, Reconciliation
from core.messaging.producer import EventProducer
from core.order_commands import tell_again
from core.order_start import from_journal, start_order
from core.order_work import BrokerHint
from core.reconcile_work import Compared, Mended, RoundInput, RoundResult
from core.routing import order_workflow_id
from core.storage.journal import Journal
from core.storage.outbox import Outbox
from core.storage.reconcile import (
    Standing,
    StoredRound,
    ended_and_told,
    finish_round,
    load_round,
    load_standing,
    mark_published,
    open_orders,
    unpublished_orders,
    unpublished_rounds,
)
from core.trading.calendar import SessionKind, TradingCalendar
from core.trading.durations import OrderDurations
from core.trading.reconcile import observe
from core.trading.types import Broker

SOURCE = "reconciliation"

STARTS_AT_ONCE = 20
"""Workflows asked to start at the same time: thousands may be lost together with Temporal's database."""

log = logging.get(__name__)


@dataclass(slots=True)
class ReconcileOrders:
    """Activities of one broker's orders queue."""

    journal: Journal
    outbox: Outbox
    producer: EventProducer
    alerts: Alerts
    client: Client
    durations: OrderDurations
    calendar: TradingCalendar

    @property
    def broker(self) -> Broker:
        return self.journal.broker

    @property
    def engine(self) -> AsyncEngine:
        return self.journal.engine

    # what was left behind ----------------------------------------------------------------------------------------

    @activity.defn(name=reconcile_work.MEND_ORDERS)
    async def mend_orders(self, at: RoundInput) -> Mended:
        """Publish late events, start the lost workflows of open orders, tell those of ended ones.

        What is away is told as trouble; the database, which all of it needs, raises Transient.
        """
        older = at.durations.left_behind
        published, trouble = await self._publish(await unpublished_orders(self.journal, older))
        started: list[UUID] = []
        told: list[UUID] = []
        commands = 0
        try:
            running = await self._running()
            started = await self._start_lost(at, running)
            told = await self._tell_ended(running, older)
            commands = len(await tell_again(self.client, self.engine, self.broker, older))
        except (RPCError, Transient) as error:
            trouble.append(f"Temporal or the database is away: {error}")
        for what, count in (("event", published), ("workflow", len(started))):
            metrics.reconcile_mended.labels(self.broker.value, what).inc(count)
        return Mended(
            published=published,
            started_again=tuple(started),
            told=tuple(told),
            commands=commands,
            trouble=tuple(trouble),
        )

    async def _publish(self, order_ids: list[UUID]) -> tuple[int, list[str]]:
        """How many events went out, and in words what kept the others."""
        outcomes = await asyncio.gather(*(self.outbox.publish(one) for one in order_ids), return_exceptions=True)
        failed = [one for one in outcomes if isinstance(one, BaseException)]
        for error in failed:
            if not isinstance(error, AlphaPandaError | OSError):
                raise error
        words = [f"{len(failed)} orders have events the log does not take: {failed[0]}"] if failed else []
        return sum(one for one in outcomes if isinstance(one, int)), words

    async def _running(self) -> set[str]:
        """Ids of running order workflows, as the visibility store knows them: a moment behind, so never taken for proof."""
        query = f"WorkflowType = '{order_work.ORDER_WORKFLOW}' AND ExecutionStatus = 'Running'"
        query += f" AND {order_work.SA_BROKER.name} = '{self.broker.value}'"
        return {row.id async for row in self.client.list_workflows(query)}

    async def _start_lost(self, at: RoundInput, running: set[str]) -> list[UUID]:
        """Start the workflows of open orders that are not running. One that does run refuses the second start."""
        orders = await open_orders(self.journal, at.account, at.target, at.durations.left_behind)
        lost = [one for one in orders if order_workflow_id(self.broker, one["order_id"]) not in running]
        started: list[UUID] = []
        for first in range(0, len(lost), STARTS_AT_ONCE):
            some = lost[first : first + STARTS_AT_ONCE]
            outcomes = await asyncio.gather(*(self._start_again(order) for order in some))
            started += [order["order_id"] for order, new in zip(some, outcomes, strict=True) if new]
        return started

    async def _start_again(self, order: dict[str, Any]) -> bool:
        await failpoints.reached("reconcile.before_start")
        try:
            await start_order(self.client, from_journal(self.broker, order, self.durations), again=True)
        except WorkflowAlreadyStartedError:
            return False
        await failpoints.reached("reconcile.after_start")
        log.warning(
            "started the lost workflow of an open order again",
            broker=self.broker.value,
            order_id=str(order["order_id"]),
            correlation_id=str(order["correlation_id"]),
            status=order["status"],
        )
        return True

    async def _tell_ended(self, running: set[str], older_s: float) -> list[UUID]:
        """Hint the workflows that still run though their order ended a while ago and all its news is out."""
        by_id = {UUID(name[-36:]): name for name in running}
        told = await ended_and_told(self.journal, list(by_id), older_s)
        for order_id in told:
            try:
                handle = self.client.get_workflow_handle(by_id[order_id])
                await handle.signal(order_work.HINT, BrokerHint(status="ENDED", source=SOURCE))
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
        return told

    # the round's end ---------------------------------------------------------------------------------------------

    @activity.defn(name=reconcile_work.REPORT_ROUND)
    async def report_round(self, result: RoundResult) -> str:
        """Tell what the round came to: alerts, metrics, one log line, one event. Returns the line a person reads in Temporal UI.

        Raises:
            Transient: the database or the log is away; what is kept is published by a later round.
        """
        at, compared = result.round, result.compared
        stored = await load_round(self.journal, at.round_id)
        late: list[str] = []
        if compared is not None:
            _, late = await self._publish(list(compared.touched))
        if stored is None or not stored.finished:
            report = self._report(result, stored, tuple(late))
            standing = await self._watch(report, at)
            await failpoints.reached("reconcile.before_finish")
            await finish_round(
                self.journal,
                round_id=at.round_id,
                account=at.account,
                day=report.trading_day,
                began_at=report.began_at,
                judged=report.judged,
                standing=standing,
                topic=topics.reconciliations(self.broker),
                event=self._event(report),
            )
            await failpoints.reached("reconcile.after_finish")
            self._show(report)
        await self._publish_rounds()
        return _summary(compared, result.mended)

    def _report(self, result: RoundResult, stored: StoredRound | None, late: tuple[str, ...]) -> Reconciliation:
        at = result.round
        compared = result.compared or Compared(judged=False, why_not="the broker could not be read")
        mended = result.mended or Mended()
        now = utc_now()
        return Reconciliation(
            round_id=at.round_id,
            account=at.account,
            trading_day=stored.trading_day if stored else trading_day(now),
            began_at=stored.began_at if stored else now,
            finished_at=now,
            reasons=at.reasons,
            requests=at.requests,
            judged=compared.judged,
            why_not=compared.why_not,
            late_fills=compared.late_fills,
            adopted=compared.adopted,
            started_again=mended.started_again,
            told=mended.told,
            published_late=mended.published,
            trouble=(*mended.trouble, *result.trouble, *late),
            **{name: stored.found[name] for name in _FIGURES if stored and compared.judged},
        )

    def _event(self, report: Reconciliation) -> Envelope:
        identity = ids.derive(report.round_id, EventType.RECONCILIATION)
        return make(
            EventType.RECONCILIATION,
            report,
            id=identity,
            key=report.account,
            source=SOURCE,
            correlation_id=identity,
            broker=self.broker,
            ts=report.finished_at,
        )

    async def _publish_rounds(self) -> None:
        waiting = await unpublished_rounds(self.journal)
        for event in waiting:
            await self.producer.send_raw(event.topic, key=event.key, value=event.value, headers=event.headers)
        if waiting:
            await mark_published(self.journal, [event.round_id for event in waiting])

    # people ------------------------------------------------------------------------------------------------------

    async def _watch(self, report: Reconciliation, at: RoundInput) -> Standing:
        """Alert on what stands for two rounds. Alerts come before the round is kept: one too many rather than one lost."""
        before = await load_standing(self.journal, at.account)
        if not report.judged:
            return await self._watch_blind(before, report, at)
        lines = {f"{line.exchange}:{line.tradingsymbol}:{line.product}": line for line in report.lines}
        unjudged = {name for name, line in lines.items() if line.drift is None}
        now, confirm = report.finished_at, at.durations.confirm
        drifting = {name for name, line in lines.items() if line.drift}
        drift = observe(before.drift, drifting, unjudged, now=now, confirm_s=confirm)
        for name in drift.raised:
            await self._alert_drift(name, lines[name])
        for name in drift.gone:
            await self._drift_gone(name, before, report)
        bare = {name for name, line in lines.items() if line.uncovered}
        uncovered = observe(before.uncovered, bare, unjudged, now=now, confirm_s=confirm)
        for name in uncovered.raised:
            await self._alert_uncovered(name, lines[name])
        if before.blind_told:
            log.info("the broker is compared again", broker=self.broker.value)
        await self._alert_late(report)
        # What was told and is not judged on a new day yet is still of the day it was told on.
        waits = before.day is not None and bool(before.drift.told & unjudged)
        return Standing(drift.watched, uncovered.watched, None, day=before.day if waits else report.trading_day)

    async def _alert_drift(self, name: str, line: ReconciledLine) -> None:
        await self.alerts.raise_(
            "drift",
            f"{self.broker} {name}",
            f"{self.broker} {name}: the broker holds {line.broker}, our fills make {line.ours}, others' {line.foreign}: "
            f"{line.drift} unexplained",
            "Compare Kite's order book and positions with `alpha-panda reconcile`; place nothing in it until you know why.",
            drift=str(line.drift),
        )

    async def _drift_gone(self, name: str, before: Standing, report: Reconciliation) -> None:
        """A drift that vanished with the day's roll was not explained: the new day counts it as carry."""
        if before.day is None or before.day == report.trading_day:
            log.info("drift gone", broker=self.broker.value, line=name)
            return
        await self.alerts.raise_(
            "drift",
            f"{self.broker} {name}",
            f"{self.broker} {name}: drift stood unexplained at the end of {before.day}; from {report.trading_day} on "
            "whatever the broker carried counts as FOREIGN",
            "Find out what it was: the day's contract note lists every trade.",
        )

    async def _alert_uncovered(self, name: str, line: ReconciledLine) -> None:
        await self.alerts.raise_(
            "position_uncovered",
            f"{self.broker} {name}",
            f"{self.broker} {name}: we hold {line.ours}, the broker's net is {line.broker}: {line.uncovered} of ours was closed "
            "by somebody else",
            "An exit of ours would open the opposite position: stop the strategy, and settle what it holds.",
        )

    async def _alert_late(self, report: Reconciliation) -> None:
        for order_id in report.adopted:
            await self.alerts.raise_(
                "late_row",
                str(order_id),
                f"{self.broker} order {order_id}: the book shows it after it was given up or had ended; its fills are booked, "
                "what still works of it is cancelled",
                "Look at the order and at the position it left: nothing else will exit it.",
            )

    async def _watch_blind(self, before: Standing, report: Reconciliation, at: RoundInput) -> Standing:
        """Nobody is woken at night, when the broker's servers are down for maintenance and no session is open."""
        since: datetime = before.blind_since or report.began_at
        told = before.blind_told
        trading = any(self.calendar.phase(kind, report.finished_at).is_open for kind in SessionKind)
        if trading and not told and (report.finished_at - since).total_seconds() >= at.durations.blind:
            told = True
            await self.alerts.raise_(
                "reconcile_blind",
                self.broker.value,
                f"{self.broker}: no comparison with the broker since {since:%Y-%m-%d %H:%M:%S} UTC: {report.why_not}",
                "Mend what it names; a dead Zerodha session needs `alpha-panda login`.",
            )
        return Standing(before.drift, before.uncovered, since, told, before.day)

    def _show(self, report: Reconciliation) -> None:
        """Metrics and the one log line of the round."""
        broker = self.broker.value
        metrics.reconcile_mended.labels(broker, "fill").inc(report.late_fills)
        metrics.reconcile_mended.labels(broker, "row").inc(len(report.adopted))
        quiet = not (report.drifting or report.trouble or report.late_fills or report.started_again)
        if report.judged:
            _set_gauges(broker, report)
        level = log.info if report.judged and quiet else log.warning
        level(
            "reconciled" if report.judged else "not reconciled",
            broker=broker,
            account=report.account,
            reasons=list(report.reasons),
            why_not=report.why_not,
            drift=_by_line(report, "drift"),
            foreign=_by_line(report, "foreign"),
            moving=[f"{line.exchange}:{line.tradingsymbol}" for line in report.lines if line.drift is None],
            foreign_orders=report.foreign_orders_count,
            late_fills=report.late_fills,
            adopted=len(report.adopted),
            started_again=len(report.started_again),
            published_late=report.published_late,
            trouble=list(report.trouble),
        )


_FIGURES = ("lines", "foreign_orders", "foreign_orders_count")

_shown: dict[str, set[tuple[str, str]]] = {}
"""Lines whose gauges this process has set, by broker: they go back to zero when they are told of no more."""


def _set_gauges(broker: str, report: Reconciliation) -> None:
    figures = {
        (f"{line.exchange}:{line.tradingsymbol}", str(line.product)): (line.drift, line.foreign)
        for line in report.lines
    }
    for line in _shown.get(broker, set()) - figures.keys():
        metrics.drift.labels(broker, *line).set(0)
        metrics.foreign.labels(broker, *line).set(0)
    for line, (drift, foreign) in figures.items():
        if drift is not None:
            metrics.drift.labels(broker, *line).set(drift)
        metrics.foreign.labels(broker, *line).set(foreign)
    _shown[broker] = set(figures)
    metrics.foreign_orders.labels(broker).set(report.foreign_orders_count)
    metrics.reconciled_at.labels(broker).set(report.finished_at.timestamp())


def _by_line(report: Reconciliation, figure: str) -> dict[str, int]:
    rows = {f"{line.exchange}:{line.tradingsymbol}:{line.product}": getattr(line, figure) for line in report.lines}
    return {name: value for name, value in rows.items() if value}


def _summary(compared: Compared | None, mended: Mended | None) -> str:
    """One line for Temporal UI."""
    if compared is None or not compared.judged:
        told = f"not compared: {compared.why_not if compared else 'the broker could not be read'}"
    else:
        told = f"drift in {compared.drifting} instruments · {compared.foreign} foreign orders"
        if compared.late_fills or compared.adopted:
            told += f" · {compared.late_fills} late fills, {len(compared.adopted)} rows adopted"
    if mended is not None and (mended.started_again or mended.published):
        told += f" · {len(mended.started_again)} workflows started again, {mended.published} events published late"
    return told
