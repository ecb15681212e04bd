"""What each instance is doing, in Redis for the API: a hash per broker, instance → JSON. Losing it loses nothing; it never decides.

`state` is one of running, warming (reason says how many bars are missing), failed (reason is the error) and inactive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from control.plans import Idle
from core.clock import utc_now
from core.storage.redis import away, strategies_key
from core.storage.strategies import StrategyConfig
from core.trading.types import Broker
from streams.runner_engine import Engine, Running


def _common(name: str, broker: Broker, config: StrategyConfig) -> dict[str, Any]:
    return {
        "instance": name,
        "strategy_id": config.strategy_id,
        "broker": broker.value,
        "class_name": config.class_name,
        "version": config.version,
        "instruments": list(config.instruments),
        "active": config.active,
        "updated_at": utc_now().isoformat(),
    }


def running_status(engine: Engine, running: Running) -> dict[str, Any]:
    """One instance at work."""
    plan = running.plan
    needed = plan.strategy.bars_needed()
    bars = {row.key: engine.bars_seen(plan, row) for row in plan.instruments}
    cold = {key: seen for key, seen in bars.items() if seen < needed}
    state, reason = "running", ""
    if running.failed:
        state, reason = "failed", running.failed
    elif running.silent:
        state, reason = "warming", "catching up after a restart: the new version decides from then on"
    elif cold:
        state = "warming"
        reason = "; ".join(f"{key} has {seen} of {needed} bars" for key, seen in cold.items())
    last_bars = [engine.last_bar_end(plan, row) for row in plan.instruments]
    ends = [at for at in last_bars if at is not None]
    return _common(plan.name, plan.broker, plan.config) | {
        "state": state,
        "reason": reason,
        "warm": not cold,
        "bars_needed": needed,
        "bars": bars,
        "last_bar_end": max(ends).isoformat() if ends else None,
        "signals": running.signals,
        "last_signal_at": running.last_signal_at.isoformat() if running.last_signal_at else None,
    }


def idle_status(idle: Idle, *, failed: bool = False) -> dict[str, Any]:
    """One instance that does not run: switched off, not opted in here, or (`failed`) with a row that cannot run."""
    return _common(idle.name, idle.broker, idle.config) | {
        "state": "failed" if failed else "inactive",
        "reason": idle.reason,
        "warm": False,
        "bars_needed": None,
        "bars": {},
        "last_bar_end": None,
        "signals": 0,
        "last_signal_at": None,
    }


async def publish(connection: Redis, rows: Iterable[dict[str, Any]]) -> None:
    """Replace every broker's hash by these rows, each hash in one step.

    Raises:
        Transient: Redis is away.
    """
    by_broker: dict[Broker, dict[Any, Any]] = {broker: {} for broker in Broker}
    for row in rows:
        by_broker[Broker(row["broker"])][row["instance"]] = json.dumps(row)
    async with away("writing strategies"), connection.pipeline(transaction=True) as pipe:
        for broker, fields in by_broker.items():
            pipe.delete(strategies_key(broker))
            if fields:
                pipe.hset(strategies_key(broker), mapping=fields)
        await pipe.execute()


async def read(connection: Redis, broker: Broker) -> list[dict[str, Any]]:
    """A broker's instances as last written, by name; empty when Redis lost them.

    Raises:
        Transient: Redis is away.
    """
    async with away("reading strategies"):
        found = await connection.hgetall(strategies_key(broker))
    return [json.loads(found[name]) for name in sorted(found)]
