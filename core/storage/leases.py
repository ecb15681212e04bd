"""Leases: a row says who may do a thing, until when by the database's clock. Never a session lock, which a frozen owner keeps.

The epoch grows with every new holder; whoever acts under a lease names its epoch in the acting statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core import logging
from core.errors import Transient
from core.storage.db import transient
from core.storage.models import LeaseRow, SharedLeaseRow

EXPIRY_S = 6
RENEW_S = 2.0

CANCELLED_S = 10.0
"""Work that was cancelled ends within this, or its process does."""

FINISH_S = 9.0
"""How long work may go on after a stop: longer than a broker's answer may take, shorter than a process may take to end."""

log = logging.get(__name__)


@dataclass(slots=True)
class Lease:
    """One named lease for one holder (a process id of its own making). `epoch` is None while it is not ours."""

    engine: AsyncEngine
    table: type[LeaseRow] | type[SharedLeaseRow]
    name: str
    holder: str
    epoch: int | None = None

    async def acquire(self) -> int | None:
        """Take the lease if it is free, expired or already ours; the epoch, or None while another holds it.

        Raises:
            Transient: the database is away.
        """
        table = self.table
        expires = func.clock_timestamp() + text(f"interval '{EXPIRY_S} seconds'")
        async with transient(f"taking lease {self.name}"), self.engine.begin() as connection:
            taking = insert(table).values(name=self.name, holder=self.holder, epoch=1, expires_at=expires)
            statement = taking.on_conflict_do_update(
                index_elements=[table.name],
                set_={"holder": self.holder, "epoch": table.epoch + 1, "expires_at": expires},
                where=or_(table.expires_at < func.clock_timestamp(), table.holder == self.holder),
            ).returning(table.epoch)
            self.epoch = (await connection.execute(statement)).scalar_one_or_none()
        return self.epoch

    async def renew(self) -> bool:
        """Extend our lease; False when it is no longer ours (then act no more).

        Raises:
            Transient: the database is away; the lease may run out meanwhile.
        """
        table = self.table
        async with transient(f"renewing lease {self.name}"), self.engine.begin() as connection:
            result = await connection.execute(
                update(table)
                .where(table.name == self.name, table.holder == self.holder, table.epoch == self.epoch)
                .values(expires_at=func.clock_timestamp() + text(f"interval '{EXPIRY_S} seconds'"))
            )
        if result.rowcount != 1:
            self.epoch = None
            return False
        return True

    async def release(self) -> None:
        """Give it up at a clean stop, so that the next holder need not wait for the expiry."""
        if self.epoch is None:
            return
        table = self.table
        async with transient(f"releasing lease {self.name}"), self.engine.begin() as connection:
            await connection.execute(
                update(table)
                .where(table.name == self.name, table.holder == self.holder, table.epoch == self.epoch)
                .values(expires_at=func.clock_timestamp())
            )
        self.epoch = None

    async def hold(
        self,
        stop: asyncio.Event,
        work: Callable[[int], Awaitable[None]],
        *,
        standby: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Wait for the lease as standby, run `work(epoch)` while we hold it, and cancel it the moment we do not.

        Lost (another took it, or the database was away past the expiry): `work` is cancelled and we stand by again. Returns when `stop`
        is set or `work` returns. `standby(reason)` is called while waiting.
        """
        while not stop.is_set():
            epoch = await self._wait_for_it(stop, standby)
            if epoch is None:
                return
            log.info("lease taken", lease=self.name, epoch=epoch)
            task = asyncio.ensure_future(work(epoch))
            try:
                valid_until = await self._keep(task, stop, asyncio.get_running_loop().time() + EXPIRY_S)
                if task.done():
                    task.result()
                    return
                if stop.is_set():
                    await self._finish(task, valid_until)
                    return
                log.warning("lease lost; standing by", lease=self.name, epoch=epoch)
            finally:
                await _end(task, self.name)
                try:
                    await self.release()
                except Transient as error:
                    log.warning("lease not released; it expires by itself", lease=self.name, error=str(error))

    async def _wait_for_it(self, stop: asyncio.Event, standby: Callable[[str], None]) -> int | None:
        while not stop.is_set():
            try:
                epoch = await self.acquire()
                if epoch is not None:
                    return epoch
                standby(f"standby: another process holds the lease {self.name}")
            except Transient as error:
                standby(str(error))
            await _sleep(stop, 1.0)
        return None

    async def _keep(self, task: asyncio.Future[None], stop: asyncio.Event, valid_until: float) -> float:
        """Renew until the work ends, the stop comes, or the lease is no longer surely ours; returns until when it surely is."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while True:
                waiting: set[asyncio.Future[Any]] = {task, stopping}
                await asyncio.wait(waiting, timeout=RENEW_S, return_when=asyncio.FIRST_COMPLETED)
                if task.done() or stop.is_set():
                    return valid_until
                asked = loop.time()
                try:
                    if not await asyncio.wait_for(self.renew(), max(0.1, valid_until - asked)):
                        return 0.0
                    valid_until = asked + EXPIRY_S
                except (Transient, TimeoutError):
                    if loop.time() >= valid_until:
                        return 0.0
        finally:
            stopping.cancel()

    async def _finish(self, task: asyncio.Future[None], valid_until: float) -> None:
        """After a stop, let the work end by itself, for at most FINISH_S, while the lease is still ours."""
        try:
            async with asyncio.timeout(FINISH_S):
                await self._keep(task, asyncio.Event(), valid_until)
        except TimeoutError:
            log.warning("the work did not end by itself: cancelled", lease=self.name, within_s=FINISH_S)
        if task.done():
            task.result()


async def _end(task: asyncio.Future[None], lease: str) -> None:
    """Cancel the work. Work that will not end takes its process with it: beside it we would stand by for ever, and nobody would act.

    Raises:
        RuntimeError: it did not end within CANCELLED_S; the process ends and is started again.
    """
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=CANCELLED_S)
    if not done:
        raise RuntimeError(f"the work under lease {lease} did not end within {CANCELLED_S:.0f} s of its cancel")
    if not task.cancelled():
        task.exception()  # told by whoever waited for the work; what a cancelled work raises is of no interest


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
