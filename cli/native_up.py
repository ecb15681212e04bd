"""`make up` on the native stack: start what is missing, bring schema and topics up to date, start services, wait for health.

Changes nothing on a second run with unchanged code. Leaves what runs as it is when a check refuses the new start.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable

from cli import checks, record, replay
from cli.progress import step
from cli.provision import provision
from core import health
from core.config import Settings
from core.errors import StopTheStart
from core.services import names, services
from docker.native.layout import Layout
from docker.native.stack import INFRA, NativeStack
from docker.native.supervisor import ALIVE, Part, tail

CRASHES = 3

READY_S = 180.0
"""How long all services together may take to become ready on a slow machine."""

CANNOT_START = "cannot start"
"""What core.service logs, with the reason, when a person must mend something first."""


def up(settings: Settings) -> bool:
    """Bring everything up. Returns whether anything had to be done.

    Raises:
        StopTheStart: naming the part, its reason, its last log lines and what to do.
    """
    stack = NativeStack(settings, services(settings))
    last = record.read(stack.layout.up_record)
    now = record.Record("native", record.code_hash(settings))
    outdated = stack.outdated()
    if last == now and not outdated and _all_well(stack, settings):
        return False
    if stack.infra_running():
        _check(settings)  # before anything that runs is touched
    if outdated:
        with step("Stopping the stack: its settings changed") as shown:
            stack.stop(shown.say)
    fresh = not stack.running
    _infra(stack)
    if fresh:
        try:
            _check(settings)
        except StopTheStart:
            stack.stop()
            raise
    if last != now or fresh:  # a stack that died with its machine may come up without what was on its disk
        _renew(stack, settings)
    _services(stack, settings)
    record.write(stack.layout.up_record, now)
    return True


def _check(settings: Settings) -> None:
    """What only the running stack can tell: no open business left alone, running orders go on under this code.

    Raises:
        StopTheStart: with what is in the way.
    """

    async def both() -> int:
        await checks.nothing_left_alone(settings)
        return await replay.running_histories(settings)

    with step("Checking what is under way") as shown:
        count = asyncio.run(both())
        shown.say(f"{count} running workflows go on under this code" if count else "no running workflows")


def _infra(stack: NativeStack) -> None:
    with step("Stack") as shown:
        answered: list[str] = []

        def on_ready(name: str) -> None:
            answered.append(name)
            shown.say(", ".join(answered))

        shown.say("starting")
        stack.start_infra(on_ready)
        shown.say(f"{', '.join(INFRA)} answer")


def _renew(stack: NativeStack, settings: Settings) -> None:
    """New code or settings: the old services end before the schema moves under them."""
    stack.layout.up_record.unlink(missing_ok=True)  # a start killed from here on is no finished one
    if any(part.state in ALIVE for name, part in stack.parts().items() if name not in INFRA):
        with step("Stopping services: code or settings changed"):
            stack.stop_services()
    with step("Provisioning") as shown:
        said: list[str] = []

        def say(words: str) -> None:
            said.append(words)
            shown.say(", ".join(said))

        asyncio.run(provision(settings, say))


def _services(stack: NativeStack, settings: Settings) -> None:
    wanted = names(services(settings))
    with step("Services") as shown:
        began = time.time()
        stack.start_services()
        end = time.monotonic() + READY_S
        pids: dict[str, set[int]] = defaultdict(set)
        while waiting := not_ready(stack, settings, wanted):
            first = next(iter(waiting))
            shown.say(f"{len(wanted) - len(waiting)} of {len(wanted)} ready; waiting for {first} ({waiting[first]})")
            for name, part in stack.parts().items():
                pids[name] |= {part.pid} - {0}
            _give_up(stack, waiting, pids, began)
            if time.monotonic() > end:
                raise StopTheStart(_explain(stack, f"Not ready after {READY_S:.0f} s", waiting))
            time.sleep(0.2)
        shown.say(f"{len(wanted)} of {len(wanted)} ready")


def _give_up(stack: NativeStack, waiting: dict[str, str], pids: dict[str, set[int]], began: float) -> None:
    """Stop waiting where waiting cannot help: a service refused to start, or crashes again and again.

    Raises:
        StopTheStart: with the reason.
    """
    refused = {name: why for name in waiting if (why := _refusal(stack.layout, name, began))}
    if refused:
        raise StopTheStart(_explain_refusal(refused))
    crashing = {name: why for name, why in waiting.items() if len(pids[name]) > CRASHES}
    if crashing:
        raise StopTheStart(_explain(stack, f"Crashed {CRASHES} times", crashing))


def not_ready(stack: NativeStack, settings: Settings, wanted: Iterable[str]) -> dict[str, str]:
    """Service → why it is not ready. Ready is what the process that runs now says of itself."""
    parts, said = stack.parts(), health.read_all(settings.run_dir)
    waiting = {}
    for name in wanted:
        part, word = parts.get(name), said.get(name)
        reason = _why(part, word)
        if reason:
            waiting[name] = reason
    return waiting


def _why(part: Part | None, word: health.Health | None) -> str:
    if part is None or part.state not in ALIVE:
        return f"{part.state.lower()}: {part.description}" if part else "not known to the supervisor"
    if part.pid == 0:
        return f"ended, starts again ({part.description})"
    if word is None or word.pid != part.pid:
        return "starting"
    return "" if word.ready else (word.reason or "not ready")


def _refusal(layout: Layout, name: str, since: float) -> str | None:
    """The reason a service gave for not starting, in its log since then."""
    from datetime import datetime

    for line in reversed(tail(layout.log_file(name), 20)):
        if CANNOT_START not in line:
            continue
        try:
            row = json.loads(line)
            if row["event"] == CANNOT_START and datetime.fromisoformat(row["timestamp"]).timestamp() >= since:
                return str(row["reason"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _explain_refusal(refused: dict[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_reason.setdefault(why, []).append(name)
    lines = [f"{', '.join(who)} cannot start:\n    {why}" for why, who in by_reason.items()]
    return "\n".join(
        [*lines, "Mend this and run `make up` again; what did start goes on (`make status`, `make down`)."]
    )


def _explain(stack: NativeStack, what: str, waiting: dict[str, str]) -> str:
    """What is wrong with these services; the logs of three of them, dead ones first."""
    lines = [f"{what}:"]
    lines += [f"  {name}: {why}" for name, why in waiting.items()]
    parts = stack.parts()
    dead_first = sorted(waiting, key=lambda name: name in parts and parts[name].pid != 0)
    lines += [stack.explain(name) for name in dead_first[:3]]
    lines.append(
        "See `make status` and `make logs SERVICE=...`; `make up` again goes on waiting, `make down` stops all."
    )
    return "\n".join(lines)


def _all_well(stack: NativeStack, settings: Settings) -> bool:
    return stack.infra_running() and not not_ready(stack, settings, names(services(settings)))
