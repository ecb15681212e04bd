"""The life of a process: how it ends, with which code, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.config import PROJECT_ROOT
from core.health import read_all

PASSWORDS = ("KAFKA_ADMIN", "KAFKA_APP", "KAFKA_PAPER", "KAFKA_ZERODHA",
             "POSTGRES_ADMIN", "POSTGRES_APP", "POSTGRES_PAPER", "POSTGRES_ZERODHA", "REDIS")  # fmt: skip

HEAD = """
import asyncio
from core import service
service.prepare({name!r})
from core.errors import StopTheStart
service.END_S, service.HARD_END_S = 0.5, 2.0
"""


class Process:
    """A service as the supervisor runs it, with a home of its own."""

    def __init__(self, home: Path, body: str, name: str = "portfolio") -> None:
        self.home = home
        source = HEAD.format(name=name) + textwrap.dedent(body) + f"\nservice.run({name!r}, main)\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", source],
            env={"PATH": os.environ["PATH"], "ALPHA_PANDA_HOME": str(home)},
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line).get("event") == event:
                return
        raise AssertionError(f"ended without saying {event!r}: {self.process.stderr.read()}")  # type: ignore[union-attr]

    def end(self) -> tuple[int, list[dict[str, object]]]:
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rows = ["KITE_API_KEY=localdemo", f"KITE_API_SECRET={'s' * 20}", "KITE_USER_ID=AP0001"]
    rows += ["API_JWT_SECRET=5a2f8c91d07be3465a2f8c91d07be346"]
    rows += [f"{name}_PASSWORD={name.lower()}-{'x' * 16}" for name in PASSWORDS]
    (tmp_path / ".env").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(body: str, name: str = "portfolio") -> Process:
        started.append(Process(home, body, name))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def test_sigterm_sets_stop_and_a_clean_return_is_zero(start: Callable[..., Process]) -> None:
    service = start("""
        async def main(ctx):
            ctx.health.started()
            ctx.log.info("up", broker=ctx.broker)
            await ctx.stop.wait()
            ctx.log.info("leaving")
        """)
    service.wait_for("up")
    assert read_all(service.home / "var" / "run")["portfolio"].ready
    service.process.send_signal(signal.SIGTERM)
    code, lines = service.end()
    assert code == 0
    assert [line["event"] for line in lines] == ["stopping", "leaving", "stopped"]
    assert read_all(service.home / "var" / "run") == {}, "a stopped process leaves no health behind"


def test_a_service_of_one_broker_is_told_which(start: Callable[..., Process]) -> None:
    service = start(
        """
        async def main(ctx):
            raise StopTheStart(f"serves {ctx.broker}")
        """,
        name="orders-zerodha",
    )
    _, lines = service.end()
    assert lines[-1]["reason"] == "serves zerodha"


def test_an_error_is_logged_with_its_traceback_and_exits_1(start: Callable[..., Process]) -> None:
    service = start("""
        async def main(ctx):
            raise KeyError("quantity")
        """)
    code, lines = service.end()
    assert code == 1
    assert lines[-1]["level"] == "error"
    assert "KeyError: 'quantity'" in str(lines[-1]["exception"])


def test_stop_the_start_is_one_line_and_exits_78(start: Callable[..., Process]) -> None:
    service = start("""
        async def main(ctx):
            raise StopTheStart("Kafka at 127.0.0.1:29092 has no topic market.ticks: `make up` creates it")
        """)
    code, lines = service.end()
    assert code == 78
    errors = [line for line in lines if line["level"] == "error"]
    assert [line["reason"] for line in errors] == [
        "Kafka at 127.0.0.1:29092 has no topic market.ticks: `make up` creates it"
    ]
    assert "exception" not in errors[0]


def test_bad_settings_name_every_field_and_exit_78(home: Path, start: Callable[..., Process]) -> None:
    (home / ".env").write_text("KITE_API_KEY=localdemo\nKAFKA_PORT=banana\n")
    code, lines = start("async def main(ctx): pass").end()
    assert code == 78
    assert "KAFKA_PORT" in str(lines[-1]["reason"])
    assert "REDIS_PASSWORD" in str(lines[-1]["reason"])


def test_a_service_that_is_not_active_does_not_start(home: Path, start: Callable[..., Process]) -> None:
    with (home / ".env").open("a") as env:
        env.write("\nACTIVE_BROKERS=paper\n")
    code, lines = start("async def main(ctx): pass", name="orders-zerodha").end()
    assert code == 78
    assert "ACTIVE_BROKERS=paper" in str(lines[-1]["reason"])


def test_ending_without_being_asked_is_a_crash(start: Callable[..., Process]) -> None:
    code, lines = start("async def main(ctx): pass").end()
    assert code == 1
    assert lines[-1]["event"] == "ended without being asked to"


def test_what_hangs_is_named_and_exits_1(start: Callable[..., Process]) -> None:
    service = start("""
        async def main(ctx):
            ctx.log.info("up")
            await asyncio.create_task(asyncio.sleep(1000), name="the slow one")
        """)
    service.wait_for("up")
    service.process.send_signal(signal.SIGTERM)
    code, lines = service.end()
    assert code == 1
    assert "the slow one" in {line.get("task") for line in lines if line["event"] == "task hangs"}


def test_a_process_whose_event_loop_is_stuck_ends_all_the_same(start: Callable[..., Process]) -> None:
    service = start("""
        import time
        async def main(ctx):
            ctx.log.info("up")
            while True:
                time.sleep(0.05)
        """)
    service.wait_for("up")
    service.process.send_signal(signal.SIGTERM)
    code, lines = service.end()
    assert code == 1
    assert lines[-1]["event"] == "did not end"


def test_a_task_that_refuses_to_be_cancelled_does_not_keep_the_process(start: Callable[..., Process]) -> None:
    service = start("""
        async def main(ctx):
            ctx.log.info("up")
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass
        """)
    service.wait_for("up")
    service.process.send_signal(signal.SIGTERM)
    code, _ = service.end()
    assert code == 1


def test_metrics_imported_too_early_are_refused_loudly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import core.metrics, core.service; core.service.prepare('portfolio')"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "call core.service.prepare before" in done.stderr
