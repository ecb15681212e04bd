"""`alpha-panda rebuild-log`: a log that was lost is filled from the journal, and offsets of the lost one go. Acts only with --yes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from cli import show
from cli.progress import console
from core.errors import StopTheStart

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.config import Settings
    from core.messaging.rebuild import GroupReset, Rebuilt
    from core.trading.types import Broker


@dataclass(slots=True)
class _Stores:
    """The configuration's database and each broker's journal."""

    config: AsyncEngine
    journals: dict[Broker, AsyncEngine] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """`known` is the log our offsets are about (None: nobody noted it), `present` the one that is there."""

    known: str | None
    present: str
    events: Rebuilt
    checkpoints: tuple[str, ...]
    groups: tuple[GroupReset, ...]

    @property
    def nothing(self) -> bool:
        return self.known == self.present and not (self.events.lacking.total() or self.checkpoints or self.groups)


def register(app: typer.Typer) -> None:
    @app.command(name="rebuild-log")
    def rebuild_log(
        yes: bool = typer.Option(False, "--yes", help="Do it. Without it nothing happens but a list of what would."),
        as_json: bool = typer.Option(False, "--json", help="JSON instead of text."),
    ) -> None:
        """Fill a log that was lost: order events, decisions and changes of strategies, as they were, from the database.

        Also forgets checkpoints and committed offsets that are not of this log. Refuses while services run: `make down` first.
        """
        import os

        import structlog

        from core.config import settings

        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        found = _rebuild(settings(), yes)
        _print(found, yes, as_json)
        sys.stdout.flush()
        os._exit(0)  # the log's admin client may keep threads


def _rebuild(settings: Settings, yes: bool) -> _Found:
    """Start the stack without services where it does not run, and work on it.

    Raises:
        StopTheStart: services run, or the stack does not.
        Transient: a part is away.
    """
    from cli import compose, record, stack
    from core.messaging import provision
    from core.services import services
    from docker.native.stack import INFRA, NativeStack
    from docker.native.supervisor import ALIVE

    with record.alone(settings.run_dir):
        if stack.stack_of(settings) == "docker":
            compose.start_parts(settings)
        else:
            native = NativeStack(settings, services(settings))
            _refuse([name for name, part in native.parts().items() if name not in INFRA and part.state in ALIVE])
            native.start_infra()
        provision.provision(settings)
        return asyncio.run(_work(settings, yes))


def fill_from_database(settings: Settings) -> None:
    """The same for a log that is new, where no service runs and the stack does: after a restore.

    Raises:
        Transient: a part is away.
    """
    from core.messaging import provision

    provision.provision(settings)
    asyncio.run(_work(settings, True))


def _refuse(alive: list[str]) -> None:
    if alive:
        raise StopTheStart(f"{', '.join(alive)} still run: `make down` first, then this. Nothing was changed.")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Stores]:
    from core.storage.db import broker_engine, config_engine
    from core.trading.types import Broker

    stores = _Stores(config_engine(settings, pool_size=1))
    stores.journals = {broker: broker_engine(settings, broker, pool_size=1) for broker in Broker}
    try:
        yield stores
    finally:
        for engine in (stores.config, *stores.journals.values()):
            await engine.dispose()


async def _work(settings: Settings, yes: bool) -> _Found:
    from core.messaging import rebuild
    from core.storage import log_copy

    async with _opened(settings) as stores:
        _refuse([f"the holder of lease {name}" for name in await _leases(stores)])
        known, present = await log_copy.marked_log(stores.config), rebuild.log_id(settings)
        half = rebuild.half_made(present)
        new_log = known not in (None, present, half)
        events = await _fill(settings, stores, False)
        lost = frozenset(topic for topic, count in events.lacking.items() if count)
        moved = bool(lost) or known != present
        names = await _stale(settings, stores, lost, all_of_them=known != present)
        groups = await rebuild.wrong_offsets(settings, lost, new_log=new_log)
        if yes:  # offsets first: whoever dies after it leaves none rather than wrong ones, and a log that no service starts on
            await log_copy.forget_checkpoints(stores.config, names)
            if moved:
                await log_copy.mark_log(stores.config, half)
            rebuild.commit(settings, groups)
            events = await _fill(settings, stores, True)
        started = await _past_what_was_started(settings, stores) if moved else []
        if yes:
            rebuild.commit(settings, started)
            await log_copy.mark_log(stores.config, present)
        beside = {(row.group, row.topic) for row in started}
        groups = [row for row in groups if (row.group, row.topic) not in beside] + started
        return _Found(known, present, events, tuple(names), tuple(groups))


async def _leases(stores: _Stores) -> list[str]:
    from core.storage.log_copy import leases_held
    from core.storage.models import LeaseRow, SharedLeaseRow

    held = await leases_held(stores.config, SharedLeaseRow)
    for engine in stores.journals.values():
        held += await leases_held(engine, LeaseRow)
    return held


async def _stale(settings: Settings, stores: _Stores, lost: frozenset[str], *, all_of_them: bool) -> list[str]:
    """Checkpoints with an offset past the end of the log, or in a topic that has lost events; on a new log, all of them.

    Forgotten whole, never moved: a fold that kept its state would take in again what it no longer remembers.
    """
    from core.messaging.lag import end_offsets
    from core.storage.log_copy import checkpoints

    stale = []
    for name, offsets in (await checkpoints(stores.config)).items():
        ends = await end_offsets(settings, list(offsets))
        past = any(
            at > ends.get(topic, {}).get(int(partition), 0)
            for topic, partitions in offsets.items()
            for partition, at in partitions.items()
        )
        if all_of_them or past or not lost.isdisjoint(offsets):
            stale.append(name)
    return stale


async def _fill(settings: Settings, stores: _Stores, yes: bool) -> Rebuilt:
    from core.events import topics
    from core.messaging.producer import EventProducer
    from core.messaging.rebuild import Rebuilt, fill_up, ids_on_log
    from core.storage.log_copy import config_events, journal_events

    names = [topics.CONFIG_CHANGES]
    for broker in stores.journals:
        names += [topics.signals_validated(broker), topics.signals_rejected(broker), *topics.order_topics(broker)]
    there = await ids_on_log(settings, names)
    done = Rebuilt()
    producer = EventProducer(settings, client_id="rebuild-log") if yes else None
    try:
        await fill_up(config_events(stores.config), there, producer, done)
        for engine in stores.journals.values():
            await fill_up(journal_events(engine), there, producer, done)
    finally:
        if producer is not None:
            await producer.stop()
    return done


async def _past_what_was_started(settings: Settings, stores: _Stores) -> list[GroupReset]:
    """The gateway goes past what is filled up: reconciliation starts what has no workflow yet."""
    from core.events import topics
    from core.messaging.rebuild import past_what_was_started

    names = [topics.signals_validated(broker) for broker in stores.journals]
    return await past_what_was_started(settings, "order-gateway", names)


# Showing ---------------------------------------------------------------------------------------------------------------


def _print(found: _Found, yes: bool, as_json: bool) -> None:
    if as_json:
        show.print_rows(
            {
                "done": yes,
                "log": {"known": found.known, "present": found.present},
                "events": {
                    topic: {"stored": count, "lacking": found.events.lacking[topic]}
                    for topic, count in sorted(found.events.stored.items())
                },
                "checkpoints": list(found.checkpoints),
                "groups": [
                    {
                        "group": row.group,
                        "topic": row.topic,
                        "partition": row.partition,
                        "from": row.committed,
                        "to": row.to,
                    }
                    for row in found.groups
                ],
            }
        )
        return
    if found.nothing:
        console.print("The log has all that is stored, and every offset is its own: nothing to do.")
        return
    if found.known not in (None, found.present):
        console.print(f"The log is a new one ({found.present}); our offsets are about {found.known}.", soft_wrap=True)
    shown = show.table(("topic", "left"), ("stored", "right"), ("sent" if yes else "not on the log", "right"))
    for topic, count in sorted(found.events.stored.items()):
        shown.add_row(topic, str(count), str(found.events.lacking[topic]))
    show.put(shown)
    gone = "forgotten" if yes else "to be forgotten"
    for name in found.checkpoints:
        console.print(f"  checkpoint {name}: {gone}; it folds the log from its beginning")
    for row in found.groups:
        before = "" if row.committed is None else f" from {row.committed}"
        console.print(f"  {row.group} {row.topic}[{row.partition}]: offset{before} to {row.to}", soft_wrap=True)
    console.print("Done: `make up` goes on." if yes else "Nothing was done: add --yes to do it.")
