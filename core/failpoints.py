"""Named places before and after each durable step where a test can make the process die, freeze, hang or fail. Inert unless FAILPOINTS
is set, and refused on any KITE_TARGET but local.

FAILPOINTS="place.after_claim=kill:1,place.after_send=hang:2": the action is kill (SIGKILL self), freeze (SIGSTOP self), hang, raise or
sleep-SECONDS, and the number is the n-th pass that acts (default 1).

FAILPOINTS=file arms nothing at the start: a file var/run/failpoints/SERVICE/POINT whose text is the action arms the next pass of a running
process. The pass takes the file away before it acts (renamed to POINT.hit), so that it acts once, whoever starts after it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from core.config import Settings
from core.errors import ConfigError, Transient

FROM_FILES = "file"
ACTIONS = frozenset({"kill", "freeze", "hang", "raise", "sleep"})
HIT = ".hit"

_READERS = ("risk-manager", "order-gateway", "order-updates", "order-views")

POINTS: dict[str, tuple[str, ...]] = {
    "consume.before_handle": _READERS,
    "consume.after_handle": _READERS,
    "commit.before_send": _READERS,
    "commit.after_send": _READERS,
    "runner.before_publish": ("strategy-runner",),
    "runner.after_publish": ("strategy-runner",),
    "runner.before_checkpoint": ("strategy-runner",),
    "runner.after_checkpoint": ("strategy-runner",),
    "risk.before_decide": ("risk-manager",),
    "risk.after_commit": ("risk-manager",),
    "risk.after_publish": ("risk-manager",),
    "gateway.before_start": ("order-gateway",),
    "gateway.after_start": ("order-gateway",),
    "place.before_claim": ("broker",),
    "place.after_claim": ("broker",),
    "place.after_send": ("broker",),
    "place.after_record": ("broker",),
    "look.before_fold": ("broker",),
    "look.after_fold": ("broker",),
    "cancel.before_send": ("broker",),
    "cancel.after_send": ("broker",),
    "modify.before_send": ("broker",),
    "modify.after_send": ("broker",),
    "exchange.before_book": ("paper-exchange",),
    "exchange.after_book": ("paper-exchange",),
    "hint.before_signal": ("order-updates",),
    "hint.after_signal": ("order-updates",),
    "publish.before_send": ("orders",),
    "publish.after_send": ("orders",),
    "publish.after_mark": ("orders",),
    "reconcile.before_keep": ("broker",),
    "reconcile.after_keep": ("broker",),
    "reconcile.before_start": ("orders",),
    "reconcile.after_start": ("orders",),
    "reconcile.before_finish": ("orders",),
    "reconcile.after_finish": ("orders",),
    "kill.after_engage": ("orders",),
    "kill.before_cancel": ("orders",),
    "kill.after_cancel": ("orders",),
    "kill.before_exit": ("orders",),
    "kill.after_exit": ("orders",),
    "kill.before_finish": ("orders",),
    "config.after_send": ("strategy-runner",),
    "flatten.before_line": ("flatten",),
    "flatten.after_line": ("flatten",),
    "flatten.after_send": ("flatten",),
}
"""Every point and who passes it, along the path of an order. A part that each broker has of its own is named without the broker; a
point whose "after" is the "before" of the next step has one name. `flatten` is the command, not a service."""


@dataclass(slots=True)
class _Armed:
    action: str
    nth: int
    passed: int = 0


_armed: dict[str, _Armed] = {}
_folder: Path | None = None


def folder(settings: Settings, service: str) -> Path:
    """Where FAILPOINTS=file looks for what is armed in this service."""
    return settings.run_dir / "failpoints" / service


def arm(settings: Settings, service: str) -> None:
    """Read FAILPOINTS once at start.

    Raises:
        ConfigError: on a malformed value, an unknown point, or on any target but the local sandbox.
    """
    global _folder
    _armed.clear()
    _folder = None
    if not settings.failpoints:
        return
    if not settings.simulated:
        raise ConfigError("FAILPOINTS is for tests on the local sandbox: unset it for any other KITE_TARGET")
    if settings.failpoints == FROM_FILES:
        _folder = folder(settings, service)
        return
    for part in settings.failpoints.split(","):
        name, _, action = part.strip().partition("=")
        action, _, nth = action.partition(":")
        if name not in POINTS or action.split("-")[0] not in ACTIONS or (nth and not nth.isdigit()):
            raise ConfigError(f"FAILPOINTS: {part!r} is not POINT=kill|freeze|hang|raise|sleep-SECONDS[:N]")
        _armed[name] = _Armed(action, int(nth or 1))


async def reached(name: str) -> None:
    """Called at a durable step; acts only on the armed pass."""
    if _folder is not None:
        action = _taken(_folder, name)
        if action is not None:
            await _act(name, action)
        return
    point = _armed.get(name)
    if point is None:
        return
    point.passed += 1
    if point.passed == point.nth:
        await _act(name, point.action)


def _taken(where: Path, name: str) -> str | None:
    """The action that a file armed here, and the file is gone: the next pass, in this process or another, goes through."""
    hit = where / (name + HIT)
    try:
        os.rename(where / name, hit)
    except FileNotFoundError:
        return None
    return hit.read_text().strip()


async def _act(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "hang":
        await asyncio.Event().wait()
    elif action.startswith("sleep"):
        await asyncio.sleep(float(action.partition("-")[2] or 1))
    else:
        raise Transient(f"failpoint {name}")
