"""The Prometheus page: every process's metrics, with lag, DLQ depth and order states asked for at most each five seconds.

Never fails because a part is away: it shows the last figures, and the log says what could not be asked.
"""

from __future__ import annotations

import asyncio
import time

from api.reads import Reads
from core import logging, metrics
from core.errors import Transient
from core.messaging import lag
from core.messaging.dlq_depth import dlq_depth

REFRESH_S = 5.0
PATIENCE_S = 2.0
"""How long a scrape waits for fresh figures before it shows the last ones."""

log = logging.get(__name__)


class MetricsPage:
    """Renders the page; one refresh runs at a time."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._refreshed = -REFRESH_S
        self._refreshing: asyncio.Task[None] | None = None

    async def render(self) -> bytes:
        if self._refreshing is None and time.monotonic() - self._refreshed >= REFRESH_S:
            self._refreshing = asyncio.create_task(self._refresh(), name="metrics refresh")
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing}, timeout=PATIENCE_S)
        return await asyncio.to_thread(metrics.render)

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _refresh(self) -> None:
        settings = self._reads.settings
        try:
            for what, ask in (
                ("lag", lambda: lag.lag_by_group(settings)),
                ("dead letters", lambda: dlq_depth(settings, self._reads.engine)),
                ("orders", self._reads.count_orders),
            ):
                try:
                    await ask()
                except Transient as error:
                    log.warning("metrics not refreshed", what=what, reason=str(error))
        finally:
            self._refreshed = time.monotonic()
            self._refreshing = None
