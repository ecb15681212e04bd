"""The risk manager: every raw signal becomes one durable decision, and the decision one event. A signal's age is not judged here.

Each broker has a desk of its own. Routing follows the topic's name; an envelope that names another broker is refused.
"""

from __future__ import annotations

import asyncio
import time

from core import failpoints, logging, metrics, routing
from core.alerts import Alerts
from core.clock import trading_day, utc_now
from core.errors import Poison, StopTheStart
from core.events import topics
from core.events.envelope import Envelope, EventType, decode
from core.events.payloads import SignalRejected, SignalValidated
from core.messaging.consumer import ConsumerRunner
from core.messaging.producer import EventProducer
from core.messaging.records import Record
from core.service import ServiceContext, wait_for
from core.storage.db import broker_engine, config_engine
from core.storage.instruments import load_book
from core.storage.risk import RiskJournal
from core.storage.risk_config import RiskConfig, load_risk_config
from core.trading.calendar import calendar_for
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Intent
from core.waiting import pause
from streams.exits_first import carries_exit
from streams.risk_desk import SOURCE, Outcome, RiskDesk
from streams.risk_inputs import LiveConfig, TodaysInstruments, follow_log
from streams.risk_market import LastPrices

log = logging.get(__name__)


class RiskManager:
    """Handles records of every broker's raw signals: decide, publish, and only then is the offset committed."""

    def __init__(self, desks: dict[Broker, RiskDesk], producer: EventProducer, alerts: Alerts) -> None:
        self._desks = desks
        self._producer = producer
        self._alerts = alerts

    async def handle(self, record: Record) -> None:
        """Decide on one signal and publish the decision's stored bytes.

        Raises:
            Poison: no valid signal, or one that claims another broker than its topic's.
            Transient: journal, instruments or log are away; the same record comes again.
        """
        began = time.monotonic()
        broker = topics.broker_of(record.topic)
        if broker is None:
            raise ValueError(f"{record.topic} is no broker's topic: the risk manager must not consume it")
        envelope, signal = await self._read(record, broker)
        await failpoints.reached("risk.before_decide")
        outcome = await self._desks[broker].decide(envelope, signal)
        await failpoints.reached("risk.after_commit")
        event = outcome.event
        await self._producer.send_raw(
            event.topic,
            key=event.key.encode(),
            value=event.value,
            headers=[(name, value.encode()) for name, value in event.headers],
        )
        await failpoints.reached("risk.after_publish")
        metrics.decision_seconds.labels(broker.value).observe(time.monotonic() - began)
        await self._tell(broker, envelope, signal, outcome)

    async def _read(self, record: Record, broker: Broker) -> tuple[Envelope, Signal]:
        envelope = decode(record.value)
        signal = envelope.data
        if envelope.type is not EventType.SIGNAL_RAW or not isinstance(signal, Signal):
            raise Poison(
                f"{record.topic} carries a {envelope.type} event: only raw signals belong there", stage="validate"
            )
        if envelope.broker in (None, broker) and signal.instance == instance_name(signal.strategy_id, broker):
            return envelope, signal
        problem = (
            f"a signal on {record.topic} names broker {envelope.broker} and instance {signal.instance}; "
            f"its topic belongs to {instance_name(signal.strategy_id, broker)}"
        )
        await self._alerts.raise_(
            "signal_on_wrong_topic",
            signal.instance,
            problem,
            "Find what published it: nothing was traded.",
            signal_id=str(signal.signal_id),
            correlation_id=str(envelope.correlation_id),
        )
        raise Poison(problem, stage="validate")

    async def _tell(self, broker: Broker, envelope: Envelope, signal: Signal, outcome: Outcome) -> None:
        bound = log.bind(
            correlation_id=str(envelope.correlation_id),
            broker=broker.value,
            signal_id=str(signal.signal_id),
            instance=signal.instance,
        )
        decided = decode(outcome.event.value).data
        denials = decided.denials if isinstance(decided, SignalRejected) else ()
        if outcome.is_new:
            # One count a decision: a denial counts under its first code, the log line has them all.
            outcomes = ("denied", denials[0].code) if denials else ("accepted", "")
            metrics.decisions.labels(broker.value, *outcomes).inc()
        if isinstance(decided, SignalValidated):
            order_id = str(decided.order_id)
            bound.info(
                "signal accepted", order_id=order_id, side=signal.side, quantity=signal.quantity, new=outcome.is_new
            )
            return
        why = "; ".join(f"{denial.code}: {denial.message}" for denial in denials)
        bound.info("signal denied", intent=signal.intent, why=why, new=outcome.is_new)
        if signal.intent is Intent.EXIT:
            await self._alerts.raise_(
                "exit_denied", signal.instance, f"an exit of {signal.instrument} was denied: {why}", "Close it by hand."
            )


async def main(ctx: ServiceContext) -> None:
    """Run until asked to stop.

    Raises:
        ConfigError: a row of config.risk_limits is bad.
    """
    settings = ctx.settings
    shared = config_engine(settings)
    engines = {broker: broker_engine(settings, broker) for broker in settings.active_brokers}
    producer = EventProducer(settings, client_id=ctx.name)
    alerts = Alerts(producer, SOURCE)
    first: list[RiskConfig] = []

    async def read_config() -> None:
        first.append(await load_risk_config(shared))

    try:
        if not (await wait_for(ctx, "postgres", read_config) and await wait_for(ctx, "kafka", producer.start)):
            return
        config, prices = LiveConfig(shared, first[-1]), LastPrices()

        async def find_instruments() -> None:
            await load_book(shared, settings.kite_target, trading_day(utc_now()), keys=config.value.instruments)

        if not await wait_for(ctx, "instruments", find_instruments):
            return
        instruments, calendar = (
            TodaysInstruments(shared, settings.kite_target),
            calendar_for(simulated=settings.simulated),
        )
        desks = {
            broker: RiskDesk(
                broker,
                routing.target(settings, broker),
                RiskJournal(engine, routing.account(settings, broker)),
                config=lambda: config.value,
                prices=prices,
                instruments=instruments,
                calendar=calendar,
            )
            for broker, engine in engines.items()
        }
        manager = RiskManager(desks, producer, alerts)
        try:
            await _serve(ctx, manager, producer, alerts, config, prices)
        except* StopTheStart as found:
            raise found.exceptions[0] from None
    finally:
        await alerts.drain()
        await producer.stop()
        for engine in (shared, *engines.values()):
            await engine.dispose()


async def _serve(
    ctx: ServiceContext,
    manager: RiskManager,
    producer: EventProducer,
    alerts: Alerts,
    config: LiveConfig,
    prices: LastPrices,
) -> None:
    """Know the market first, then take signals. A task that fails ends the others and the process."""
    warm = asyncio.Event()
    runner = ConsumerRunner(
        ctx.settings,
        ctx.health,
        service=ctx.name,
        topics=[topics.signals_raw(broker) for broker in ctx.settings.active_brokers],
        handler=manager.handle,
        producer=producer,
        urgent=carries_exit,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow_log(ctx, prices, config, warm), name="ticks")
        tasks.create_task(config.keep_fresh(ctx, alerts), name="configuration")
        while not (warm.is_set() or ctx.stop.is_set()):
            await pause(1.0, warm, ctx.stop)
        if not ctx.stop.is_set():
            ctx.health.started()
            await runner.run(ctx.stop)
