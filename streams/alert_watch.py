"""Finds out what no other process raises: readiness of all, restarts, a mute feed, logins due, dead letters, kill flags, fills, losses.

Looks at health files, the database, the read model and the log, and never at a broker; what is away is asked again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from core import health, ids, logging
from core.alerting import watch
from core.brokers.zerodha_session import load_session
from core.clock import day_began, trading_day, utc_now
from core.config import Settings
from core.errors import Poison, StopTheStart, Transient
from core.events.envelope import Envelope, EventType
from core.events.payloads import FillRecord, OrderEvent, OrderState, SignalRejected
from core.messaging.dlq_depth import dlq_depth
from core.routing import account
from core.services import names, services
from core.storage.db import transient
from core.storage.kill import kill_state
from core.storage.redis import EVERYTHING, PortfolioStore
from core.storage.risk_config import load_risk_config
from core.trading.calendar import calendar_for
from core.trading.types import Broker
from core.waiting import pause
from streams.alert_herald import Herald

HEALTH_S = 1.0
KILL_S = 2.0
LETTERS_S = 30.0
LOGIN_S = 30.0
LOSS_S = 5.0

DAY_LOSS = "DAY_LOSS"
"""Code of the rule in core/trading/risk that refuses entries past a day's loss, or where a price is missing to judge it."""
LOST, NO_PRICE = " has lost ", "without a price"
"""Its words."""

log = logging.get(__name__)


@dataclass
class Memory:
    """What the watch knew when it was killed. A stop that was asked for forgets it: what follows is a new start."""

    path: Path
    ready: bool | None = None
    processes: dict[str, float] = field(default_factory=dict)
    kills: dict[str, str] = field(default_factory=dict)

    def read(self) -> None:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text())
            self.ready, self.processes, self.kills = found["ready"], found["processes"], found["kills"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError) as error:
            log.warning("what was watched before is unreadable: begins anew", path=str(self.path), error=repr(error))

    def write(self) -> None:
        text = json.dumps({"ready": self.ready, "processes": self.processes, "kills": self.kills})
        temporary = self.path.with_suffix(".tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(self.path)

    def forget(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


class AlertWatch:
    """`config` reaches what all share, `views` each broker's tables, both under the role that only reads there; `cache` the PnL."""

    def __init__(
        self, settings: Settings, herald: Herald, config: AsyncEngine, views: dict[Broker, AsyncEngine], cache: Redis
    ) -> None:
        self._settings = settings
        self._herald = herald
        self._config = config
        self._views = views
        self._cache = cache
        self._calendar = calendar_for(simulated=settings.simulated)
        self._expected = names(services(settings))
        self._memory = Memory(settings.run_dir / "alert-watch.json")
        self._memory.read()
        self._ready = watch.ReadyWatch(told=self._memory.ready)
        self._restarts = watch.RestartWatch(seen=self._memory.processes)
        self._mute = watch.MuteWatch()
        self._letters: dict[str, int] = {}
        self._lost: set[UUID] = set()
        self.all_ready = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. A check whose part is away is tried again at its next turn."""
        jobs: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (HEALTH_S, self.look_at_health),
            (KILL_S, self.look_at_kill_flags),
            (LETTERS_S, self.look_at_letters),
            (LOGIN_S, self.look_at_session),
            (LOSS_S, self.look_at_losses),
        )
        async with asyncio.TaskGroup() as group:
            for seconds, look in jobs:
                group.create_task(self._again_and_again(seconds, look, stop))
        self._memory.forget()

    async def _again_and_again(self, seconds: float, look: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await look()
            except (Transient, StopTheStart) as error:  # its own alert is "not ready", from those who need the part
                log.debug("not looked at", what=look.__name__, reason=str(error))
            await pause(seconds, stop)

    # processes -------------------------------------------------------------------------------------------------------

    async def look_at_health(self) -> None:
        """Readiness, restarts, the feed."""
        now = utc_now()
        said = health.read_all(self._settings.run_dir)
        why = watch.reasons(self._expected, said)
        self.all_ready = not why
        is_open = watch.in_session(self._calendar, now)
        changed = self._ready.observe(now, not why or (not is_open and watch.waits_for_login_alone(why)))
        restarted = [name for name in self._restarts.observe(said) if name in self._expected]
        mute = self._mute.observe(now, said.get(watch.FEED), is_open)
        if changed is not None or restarted or self._memory.processes != self._restarts.seen:
            self._memory.ready, self._memory.processes = self._ready.told, dict(self._restarts.seen)
            self._memory.write()
        await self._tell_processes(changed, why, restarted, mute)
        with contextlib.suppress(Transient):  # tried again each second
            await self._herald.catch_up()

    async def _tell_processes(
        self, changed: bool | None, why: dict[str, str], restarted: list[str], mute: str | None
    ) -> None:
        for name in restarted:
            await self._herald.raise_(
                "process_restarted",
                name,
                f"{name} ended without being asked to, or was started again alone",
                f"Nothing, if it is ready; `make logs SERVICE={name}` shows what it died of.",
            )
        if mute is not None:
            await self._herald.raise_(
                "feed_mute",
                watch.FEED,
                f"No market data for more than 5 seconds: {mute}",
                "`make status`; a dead session needs `alpha-panda login`. Strategies see no prices meanwhile.",
            )
        if changed is True:
            await self._herald.raise_("ready", "system", "Every part is ready.", "Nothing.")
        elif changed is False:
            parts = "; ".join(f"{name} ({reason})" for name, reason in sorted(why.items()))
            await self._herald.raise_("not_ready", "system", f"Not ready: {parts}", "`make status` shows every part.")

    # what people must do -----------------------------------------------------------------------------------------------

    async def look_at_session(self) -> None:
        """On a trading day somebody must log in before the market opens."""
        if self._settings.logs_in_itself:
            return
        due = watch.login_due(self._calendar, utc_now(), load_session(self._settings) is not None)
        if due is None:
            return
        day, times = due
        await self._herald.raise_(
            "login_due",
            self._settings.kite_user_id,
            f"No valid Zerodha session for {day:%d %b}: no ticks arrive and no order can be placed.",
            "Run `alpha-panda login`.",
            cause=ids.derive_at(day_began(day), "login_due", times),
        )

    async def look_at_letters(self) -> None:
        """Dead letters, when there are more of them than before."""
        depth = await dlq_depth(self._settings, self._config)
        for topic, count in depth.items():
            if count > self._letters.get(topic, 0):
                await self._herald.raise_(
                    "dlq_not_empty",
                    topic,
                    f"{count} dead letters on {topic}: events no service could handle",
                    "`alpha-panda dlq list` shows what they died of; then `dlq replay` or `dlq drop`.",
                )
        self._letters = depth

    async def look_at_losses(self) -> None:
        """Who has reached a day's loss limit, once a day each, whether or not an entry is refused for it."""
        config, today = await load_risk_config(self._config), trading_day(utc_now())
        for broker in self._views:
            model = await PortfolioStore(self._cache, broker).read()
            for name, view in model.pnl.items() if model is not None else ():
                limits = config.limits(view.strategy_id or "", broker)
                whole = name == EVERYTHING
                who = f"{broker} account" if whole else name
                most = limits.account.max_day_loss if whole else limits.strategy.max_day_loss
                words = watch.past_loss(who, view.day_net_pnl, most) if view.trading_day >= today else None
                cause = _loss(view.trading_day, broker, who)
                if words is None or cause in self._lost:
                    continue
                self._lost.add(cause)
                await self._herald.raise_("loss_limit", who, words, _LOSS_ACTION, cause=cause)

    async def look_at_kill_flags(self) -> None:
        """Flags that were set or lifted, whoever did it."""
        flags = await self._flags()
        before = self._memory.kills
        if flags == before:
            return
        for scope in flags.keys() - before.keys():
            await self._herald.raise_(
                "kill_engaged",
                scope,
                f"The kill switch is on for {scope}: {flags[scope]}",
                "`alpha-panda kill status` shows what it does; `alpha-panda kill off` lets entries go again.",
            )
        for scope in before.keys() - flags.keys():
            await self._herald.raise_(
                "kill_released", scope, f"The kill switch is off for {scope}: entries go again.", "Nothing."
            )
        self._memory.kills = flags
        self._memory.write()

    async def _flags(self) -> dict[str, str]:
        found = {}
        for broker, engine in self._views.items():
            async with transient("reading kill flags"):
                state = await kill_state(engine, account(self._settings, broker))
            if state.account_flag is not None:
                found[broker.value] = state.account_flag
            found |= {f"{strategy} ({broker})": why for strategy, why in state.strategy_flags.items()}
        return found

    # the log -----------------------------------------------------------------------------------------------------------

    async def on_event(self, event: Envelope, broker: Broker) -> None:
        """A fill, an order rejected after the broker took it, a signal refused for the day's loss. Raises Transient, Poison."""
        data = event.data
        if isinstance(data, SignalRejected):
            await self._on_refusal(data, broker)
        elif isinstance(data, OrderEvent) and event.type is EventType.ORDER_FILLED and data.fill is not None:
            await self._on_fill(event, data.order, data.fill, broker)
        elif isinstance(data, OrderEvent) and event.type is EventType.ORDER_REJECTED:
            await self._on_rejection(event, data.order, broker)
        else:
            raise Poison(f"{event.type} is nothing to watch", stage="validate")

    async def _on_fill(self, event: Envelope, order: OrderState, fill: FillRecord, broker: Broker) -> None:
        net = fill.realized_pnl - fill.charges
        await self._herald.raise_stored(
            "order_filled",
            str(order.order_id),
            f"{broker}: {order.side} {fill.quantity} {order.tradingsymbol} filled at ₹{fill.price:.2f} "
            f"({order.filled_quantity}/{order.quantity}, {order.strategy_id}); position {fill.position_quantity}, net ₹{net:.2f}",
            "Nothing.",
            cause=event.id,
            at=event.ts,
        )

    async def _on_rejection(self, event: Envelope, order: OrderState, broker: Broker) -> None:
        if order.broker_order_id is None:
            return  # refused at the door: the strategy sees it, and nothing ever existed at the broker
        await self._herald.raise_stored(
            "order_rejected",
            str(order.order_id),
            f"{broker}: {order.side} {order.quantity} {order.tradingsymbol} ({order.strategy_id}) was taken by the broker as "
            f"{order.broker_order_id}, then rejected: {order.reason}",
            "`alpha-panda order ID` shows its story; mend what the broker names.",
            cause=event.id,
            at=event.ts,
        )

    async def _on_refusal(self, refused: SignalRejected, broker: Broker) -> None:
        denial = next((each for each in refused.denials if each.code == DAY_LOSS), None)
        if denial is None or (NO_PRICE in denial.message and LOST not in denial.message):
            return
        instance = refused.signal.instance
        await self._herald.raise_stored(
            "loss_limit",
            instance,
            f"{instance}: entries are refused: {denial.message}",
            _LOSS_ACTION,
            cause=_loss(trading_day(refused.decided_at), broker, instance),
            at=refused.decided_at,
        )


_LOSS_ACTION = "Exits still go. Look at its positions; `alpha-panda strategies pause` stops it for longer."


def _loss(day: date, broker: Broker, who: str) -> UUID:
    """Whoever finds it out, it is one alert a day."""
    return ids.derive_at(day_began(day), "loss_limit", broker.value, who)
