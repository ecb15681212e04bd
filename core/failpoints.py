"""Named places at each durable step where a test can make the process die, hang or fail. Inert unless FAILPOINTS is set.

FAILPOINTS="place.after_claim=kill:1,place.after_send=hang:2": the action is kill (SIGKILL self), hang, raise or sleep-SECONDS, and the
number is the n-th pass that acts (default 1). Refused on any KITE_TARGET but local.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass

from core.config import Settings
from core.errors import ConfigError, Transient


@dataclass(slots=True)
class _Armed:
    action: str
    nth: int
    passed: int = 0


_armed: dict[str, _Armed] = {}


def arm(settings: Settings) -> None:
    """Read FAILPOINTS once at start.

    Raises:
        ConfigError: on a malformed value, or on any target but the local sandbox.
    """
    _armed.clear()
    if not settings.failpoints:
        return
    if not settings.simulated:
        raise ConfigError("FAILPOINTS is for tests on the local sandbox: unset it for any other KITE_TARGET")
    for part in settings.failpoints.split(","):
        name, _, action = part.strip().partition("=")
        action, _, nth = action.partition(":")
        if not name or action.split("-")[0] not in {"kill", "hang", "raise", "sleep"} or (nth and not nth.isdigit()):
            raise ConfigError(f"FAILPOINTS: {part!r} is not NAME=kill|hang|raise|sleep-SECONDS[:N]")
        _armed[name] = _Armed(action, int(nth or 1))


async def reached(name: str) -> None:
    """Called at a durable step; acts only on the armed pass."""
    point = _armed.get(name)
    if point is None:
        return
    point.passed += 1
    if point.passed != point.nth:
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "hang":
        await asyncio.Event().wait()
    elif point.action.startswith("sleep"):
        await asyncio.sleep(float(point.action.partition("-")[2] or 1))
    else:
        raise Transient(f"failpoint {name}")
