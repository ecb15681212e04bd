"""The kill switch: engage, release, look. The flag is set in the journal before anything else, so it binds while all else is away.

Never lets one broker's trouble keep another broker's flag from being set.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from control.acts import Act
from control.connections import Connections
from core.clock import utc_now
from core.kill_start import look_now, start_kill
from core.routing import account
from core.storage import kill as store
from core.storage.kill import KillRecord, KillState
from core.trading.durations import OrderDurations
from core.trading.types import Broker


async def engage(
    links: Connections, act: Act, broker: Broker, strategy_id: str | None, *, include_foreign: bool = False
) -> KillRecord:
    """Set the flag: from now on no entry of the scope is decided or sent. `work` does the rest.

    Raises:
        KillBusy: one works that leaves alone what is not ours. Transient: the database is away.
    """
    wanted = KillRecord(
        act.derived("kill", broker, strategy_id),
        account(links.settings, broker),
        strategy_id,
        act.by,
        act.reason,
        include_foreign,
        utc_now(),
        None,
        None,
        None,
        None,
        None,
    )
    found = await store.engage(links.journal(broker), wanted)
    after = {"kill_id": str(found.kill_id), "include_foreign": include_foreign}
    await act.note(links.config, "kill.engage", _scope(broker, strategy_id), after=after)
    return found


async def work(links: Connections, broker: Broker, record: KillRecord) -> str:
    """Start the workflow that cancels and closes. Returns its id. Raises Transient: the broker's order worker starts it later."""
    durations = OrderDurations().scaled(links.settings.duration_factor)
    return await start_kill(await links.temporal(), broker, record, durations)


async def release(
    links: Connections, act: Act, broker: Broker, strategy_id: str | None, *, force: bool = False
) -> list[KillRecord]:
    """Lift the flag: entries may go again. Returns the switches that were behind it.

    Raises:
        KillBusy: it still works, and `force` was not given. Transient: the database is away, or Temporal where it still works.
    """
    where = account(links.settings, broker)
    found = await store.release(links.journal(broker), where, strategy_id, by=act.by, reason=act.reason, force=force)
    before = {"switches": [str(record.kill_id) for record in found]}
    await act.note(links.config, "kill.release", _scope(broker, strategy_id), before=before, after={"force": force})
    for record in found:
        if record.finished_at is None:
            await look_now(await links.temporal(), broker, record)
    return found


async def state(links: Connections, broker: Broker) -> KillState:
    """The flags, and the switches nobody released. Raises Transient."""
    return await store.kill_state(links.journal(broker), account(links.settings, broker))


def plain(broker: Broker, found: KillState) -> dict[str, Any]:
    """A state as JSON tells it."""
    return {
        "broker": broker.value,
        "account_flag": found.account_flag,
        "strategy_flags": dict(found.strategy_flags),
        "switches": [asdict(record) for record in found.open],
    }


def _scope(broker: Broker, strategy_id: str | None) -> str:
    return f"{broker} {strategy_id or 'account'}"
