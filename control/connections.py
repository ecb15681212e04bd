"""What an act needs to reach: journals, configuration, Temporal and the log. Each opens on first use; close them all.

Never holds more than a few connections, however many people act.
"""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from core.config import Settings
from core.errors import CommandRefused
from core.messaging.producer import EventProducer
from core.storage.db import broker_engine, config_engine, view_engine
from core.temporal import connect
from core.trading.types import Broker


class Connections:
    """One of these a process that acts."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self.settings = settings
        self.config = config_engine(settings, pool_size=2)
        self.producer = EventProducer(settings, client_id=client_id)
        self._journals: dict[Broker, AsyncEngine] = {}
        self._views: dict[Broker, AsyncEngine] = {}
        self._temporal: Client | None = None
        self._connecting = asyncio.Lock()

    def journal(self, broker: Broker) -> AsyncEngine:
        """Raises CommandRefused where the broker is not active here."""
        if broker not in self.settings.active_brokers:
            raise CommandRefused(f"broker: {broker} is not in ACTIVE_BROKERS={','.join(self.settings.active_brokers)}")
        if broker not in self._journals:
            self._journals[broker] = broker_engine(self.settings, broker, pool_size=2)
        return self._journals[broker]

    def views(self, broker: Broker) -> AsyncEngine:
        """What the log says of a broker."""
        if broker not in self._views:
            self._views[broker] = view_engine(self.settings, broker, pool_size=2)
        return self._views[broker]

    async def temporal(self) -> Client:
        """Raises Transient while Temporal is away."""
        async with self._connecting:
            if self._temporal is None:
                self._temporal = await connect(self.settings)
            return self._temporal

    async def close(self) -> None:
        await self.producer.stop()
        for engine in (self.config, *self._journals.values(), *self._views.values()):
            await engine.dispose()
