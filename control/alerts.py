"""Alerts for people who look and try: how the channels are, what was told, and a test message to each channel.

Never shows a channel's URL, and sends only to those of the settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from control.acts import Act
from core.alerting import policy
from core.alerting.channels import AppriseChannel, ChannelFailed, channels
from core.clock import to_ist, utc_now
from core.config import Settings
from core.errors import CommandRefused, Transient
from core.events.payloads import Alert
from core.storage import alerts as storage
from core.storage.alerts import ChannelState


@dataclass(frozen=True, slots=True)
class Tested:
    """`error` None: the channel took the message."""

    channel: str
    error: str | None


async def channel_states(engine: AsyncEngine) -> list[ChannelState]:
    """How each channel is that the alert-sender uses now. Empty: nobody is told. Raises Transient."""
    return [each for each in await storage.channel_states(engine) if each.active]


def trouble(states: Sequence[ChannelState]) -> list[str]:
    """One line for each channel that fails: what a person must see, since by that channel they will not hear of it."""
    return [
        f"The alert channel {each.channel} takes no message since {to_ist(each.failing_since):%d %b %H:%M} IST: "
        f"{each.last_error or 'no reason given'}"
        for each in states
        if each.active and each.failing_since is not None
    ]


async def try_channels(settings: Settings, engine: AsyncEngine, act: Act) -> tuple[list[Tested], bool]:
    """Send a test message to every channel at once, quiet hours or not. Returns what came of it, and whether history has it.

    Raises:
        CommandRefused: no channel is configured.
    """
    found = channels(settings.alert_urls.get_secret_value())
    if not found:
        raise CommandRefused("ALERT_URLS names no channel: write one in .env, as docs/operations.md, Alerts, shows")
    alert = Alert(
        kind="test",
        subject=act.by,
        message=f"A test by {act.by}: this channel works.",
        action="Nothing.",
        at=utc_now(),
    )
    identity = act.derived("alert", "test")
    words = policy.Waiting(identity, alert.kind, alert.subject, alert.message, alert.action, alert.at)
    bundle = policy.Bundle(alert.kind, (words,))
    where = f"{settings.kite_target}{', SIMULATED' if settings.simulated else ''}"
    tested = list(await asyncio.gather(*(_try(channel, bundle, where) for channel in found)))
    told = {each.channel: each.error for each in tested}
    failed = sum(error is not None for error in told.values())
    try:
        await storage.take_in(engine, identity, alert, act.actor.via, list(told), told, again=False)
        await act.note(engine, "alerts.test", "channels", after={"tried": len(told), "failed": failed})
    except Transient:
        return tested, False  # a channel can be tried while the database is away
    return tested, True


async def _try(channel: AppriseChannel, bundle: policy.Bundle, where: str) -> Tested:
    try:
        await channel.send(policy.title(bundle, where), policy.body(bundle), bundle.severity)
    except ChannelFailed as error:
        return Tested(channel.name, str(error))
    return Tested(channel.name, None)
