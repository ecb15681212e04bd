"""Once an hour, lets go of what nobody can use any more (core/storage/tidy.py). Never in the way: a part that is away waits an hour."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from api.reads import Reads
from core import logging
from core.clock import utc_now
from core.errors import Transient
from core.storage import tidy

FIRST_S = 60.0
"""After the start, when there is enough else to do."""
EVERY_S = 3600.0

log = logging.get(__name__)


class Housekeeping:
    """One of these an API process; two at once delete the same rows once."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            await self.once()
            await asyncio.sleep(EVERY_S)

    async def once(self) -> None:
        """Every kind of row, each for itself: what one fails of is told, and no other waits for it."""
        now, engine = utc_now(), self._reads.engine
        jobs: list[tuple[str, Callable[[], Awaitable[int]]]] = [
            ("sessions", lambda: tidy.sessions(engine, now)),
            ("answers", lambda: tidy.answers(engine, now)),
            ("alerts", lambda: tidy.alerts(engine, now)),
        ]
        for broker in self._reads.settings.active_brokers:
            views = self._reads.views(broker)
            jobs.append((f"minutes of PnL ({broker})", lambda views=views: tidy.minutes(views, now)))  # type: ignore[misc]
        for what, work in jobs:
            try:
                gone = await work()
            except Transient as error:
                log.warning("not tidied now", what=what, reason=str(error))
            except Exception:
                # Told whole and tried again: no failure of tidying up may end the API, nor keep the other jobs from their turn.
                log.exception("tidying failed; tried again in an hour", what=what)
            else:
                if gone:
                    log.info("let go of what is long over", what=what, rows=gone)
