"""The life of one process: settings, logs, failpoints, health, signals, a bounded end. What the service does is its `main`.

Never imports what touches the metrics before `prepare` has said where they are written.

Exit codes: 0 ended when asked; 1 crashed, or did not end in time (the supervisor starts it again); 78 a person must mend
something first (EX_CONFIG of sysexits.h).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn

import structlog
import uvloop

from core import failpoints, logging
from core.config import Settings, home
from core.config import settings as read_settings
from core.errors import StopTheStart, Transient
from core.health import HealthReporter
from core.services import services
from core.trading.types import Broker
from core.waiting import Waiting, until_well

__all__ = ["ServiceContext", "Waiting", "prepare", "run", "wait_for"]

EXIT_CRASHED = 1
EXIT_MEND_FIRST = 78

END_S = 10.0
"""How long `main` may take to return once it was asked to stop."""

HARD_END_S = 11.0
"""A process whose event loop no longer turns ends here, before the supervisor's SIGKILL at 12 s."""

METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
METRICS_NAME = "ALPHA_PANDA_SERVICE"


@dataclass(slots=True)
class ServiceContext:
    """What a service's `main` gets. `stop` is set by SIGTERM or SIGINT: return within END_S. `broker`: the one it serves."""

    name: str
    settings: Settings
    health: HealthReporter
    stop: asyncio.Event
    log: structlog.stdlib.BoundLogger
    broker: Broker | None = None
    waiting: Waiting = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = Waiting(self.health)


Main = Callable[[ServiceContext], Coroutine[Any, Any, None]]


def prepare(name: str) -> None:
    """Say where this process's metrics go. Call before importing the service's module: core.metrics reads it once."""
    if "core.metrics" in sys.modules:
        raise RuntimeError("core.metrics is imported already: call core.service.prepare before the service's module")
    folder = home() / "var" / "run" / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[METRICS_DIR] = str(folder)
    os.environ[METRICS_NAME] = name


async def wait_for(ctx: ServiceContext, part: str, probe: Callable[[], Awaitable[None]]) -> bool:
    """Try `probe` until it no longer raises Transient; health says what is waited for. False: asked to stop first."""
    return await until_well(ctx.waiting, part, probe, ctx.stop)


def run(name: str, main: Main) -> NoReturn:
    """Run a service until it is asked to stop, then end the process (never returns)."""
    logging.configure(name)
    log = logging.get("core.service")
    try:
        context = _context(name)
        code = uvloop.run(_serve(context, main))
    except StopTheStart as error:
        log.error("cannot start", service=name, reason=str(error))
        code = EXIT_MEND_FIRST
    except Transient as error:
        log.error("a part is missing at the start; ends, to be started again", service=name, reason=str(error))
        code = EXIT_CRASHED
    except (
        Exception
    ):  # the last stop of the process: told whole in its log, and it ends with a code that starts it again
        log.exception("crashed", service=name)
        code = EXIT_CRASHED
    _end(code)


def _end(code: int) -> NoReturn:
    """End at once: the Temporal SDK's runtime may crash the interpreter's own shutdown."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _context(name: str) -> ServiceContext:
    """The context of a service, its settings read and checked.

    Raises:
        StopTheStart: bad settings, or no such service with these settings.
    """
    settings = read_settings()
    logging.configure(name, settings.log_level)
    failpoints.arm(settings, name)
    table = {row.name: row for row in services(settings)}
    if name not in table:
        raise StopTheStart(
            f"No service {name!r} with KITE_TARGET={settings.kite_target} and "
            f"ACTIVE_BROKERS={','.join(settings.active_brokers)}: it is one of {', '.join(table)}"
        )
    step_back(table[name].nice)
    return ServiceContext(
        name=name,
        settings=settings,
        health=HealthReporter(name, settings.run_dir),
        stop=asyncio.Event(),
        log=logging.get(name),
        broker=table[name].broker,
    )


def step_back(nice: int) -> None:
    """Give way to others where the machine is busy; never takes back what whoever started us gave away. Before any thread starts,
    for each has a priority of its own."""
    if nice > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def _stop_on_signals(context: ServiceContext, hard_end: _HardEnd) -> None:
    """SIGTERM and SIGINT set `stop`, and start the clock of the hard end.

    A handler may interrupt anything, also a log line being written: it only writes to pipes.
    """
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        context.log.info("stopping", signal=signal.Signals(number).name)
        context.stop.set()

    def asked(number: int, _: object) -> None:
        hard_end.start()
        loop.call_soon_threadsafe(stop, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)


class _HardEnd:
    """Ends the process HARD_END_S after `start`, from a thread: the event loop may no longer turn."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._wait_for, self._begin = os.pipe()
        threading.Thread(target=self._run, name="hard end", daemon=True).start()

    def start(self) -> None:
        os.write(self._begin, b"!")

    def _run(self) -> None:
        os.read(self._wait_for, 1)
        time.sleep(HARD_END_S)
        _hard_end(self._context)


def _hard_end(context: ServiceContext) -> None:
    context.log.error("did not end", within_s=HARD_END_S)
    faulthandler.dump_traceback(sys.stderr)
    _end(EXIT_CRASHED)


async def _serve(context: ServiceContext, main: Main) -> int:
    """Run `main` with health and signals. Returns the exit code; what `main` raises goes through."""
    hard_end = _HardEnd(context)
    _stop_on_signals(context, hard_end)
    health = asyncio.create_task(context.health.run(), name="health")
    work = asyncio.create_task(main(context), name=context.name)
    asked = asyncio.create_task(context.stop.wait(), name="stop")
    context.log.info("starts", pid=os.getpid())
    try:
        await asyncio.wait({work, asked, health}, return_when=asyncio.FIRST_COMPLETED)
        if health.done():
            health.result()  # the health file cannot be written: better to crash than to look dead
        if not work.done():
            await asyncio.wait({work}, timeout=END_S)
        if not work.done():
            _name_the_hanging(context)
            return EXIT_CRASHED
        work.result()
        if not context.stop.is_set():
            context.log.error("ended without being asked to")
            return EXIT_CRASHED
        context.log.info("stopped")
        return 0
    finally:
        hard_end.start()  # what is left may refuse to be cancelled
        asked.cancel()
        health.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await health


def _name_the_hanging(context: ServiceContext) -> None:
    here = asyncio.current_task()
    for task in asyncio.all_tasks():
        if task is here or task.get_name() in {"health", "stop"}:
            continue
        frames = task.get_stack(limit=1)
        at = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "unknown"
        context.log.error("task hangs", task=task.get_name(), at=at, within_s=END_S)
