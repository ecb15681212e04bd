"""Alerts for people who look and try: history, how the channels are, and a test message to each.

Never shows a channel's URL, and sends only to those of the settings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids
from core.alerting import policy
from core.alerting.channels import AppriseChannel, ChannelFailed, channels
from core.clock import utc_now
from core.config import Settings
from core.errors import CommandRefused, Transient
from core.events.payloads import Alert
from core.people.roles import Actor
from core.storage.alerts import take_in


@dataclass(frozen=True, slots=True)
class Tested:
    """`error` None: the channel took the message."""

    channel: str
    error: str | None


async def try_channels(settings: Settings, engine: AsyncEngine, actor: Actor) -> tuple[list[Tested], bool]:
    """Send a test message to every channel at once, quiet hours or not. Returns what came of it, and whether history has it.

    Raises:
        CommandRefused: no channel is configured.
    """
    found = channels(settings.alert_urls.get_secret_value())
    if not found:
        raise CommandRefused("ALERT_URLS names no channel: write one in .env, as docs/operations.md, Alerts, shows")
    alert = Alert(
        kind="test",
        subject=actor.name,
        message=f"A test by {actor.name}: this channel works.",
        action="Nothing.",
        at=utc_now(),
    )
    identity = ids.new_id()
    words = policy.Waiting(identity, alert.kind, alert.subject, alert.message, alert.action, alert.at)
    bundle = policy.Bundle(alert.kind, (words,))
    where = f"{settings.kite_target}{', SIMULATED' if settings.simulated else ''}"
    tested = list(await asyncio.gather(*(_try(channel, bundle, where) for channel in found)))
    told = {each.channel: each.error for each in tested}
    try:
        await take_in(engine, identity, alert, actor.via, list(told), told, again=False)
    except Transient:
        return tested, False  # a channel can be tried while the database is away
    return tested, True


async def _try(channel: AppriseChannel, bundle: policy.Bundle, where: str) -> Tested:
    try:
        await channel.send(policy.title(bundle, where), policy.body(bundle), bundle.severity)
    except ChannelFailed as error:
        return Tested(channel.name, str(error))
    return Tested(channel.name, None)
