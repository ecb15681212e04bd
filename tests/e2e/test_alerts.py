"""Alerts on a running system: what happens to it reaches a channel, and what the dashboards ask is on the real /metrics."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.trading import INFY, Market, steered
from tests.fixtures.system import System
from tests.monitoring import asked

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HEARTBEAT, HOOK = "/heartbeat", "/hook/s3cr3tpath"

NOT_ALWAYS = {
    "alpha_panda_open_orders",
    "alpha_panda_dlq_total",
    "alpha_panda_drift",
    "alpha_panda_foreign",
    "alpha_panda_paper_hints_dropped_total",
    "alpha_panda_paper_ticks_unreadable_total",
    "alpha_panda_partitions_waiting",
    "alpha_panda_reconcile_mended_total",
    "alpha_panda_strategy_failed",
    "alpha_panda_ticks_dropped_total",
}
"""Series with labels that a well system, with no order open just now, has no reason to write.

Their names and labels are held to the code by tests/unit."""


class Channel:
    """A web server that takes what is posted, as a webhook of a person would."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.pings = 0
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                here.posted.append(f"{body['title']}\n{body['message']}")
                self._ok()

            def do_GET(self) -> None:
                here.pings += self.path == HEARTBEAT
                self._ok()

            def _ok(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.at = f"127.0.0.1:{self.server.server_port}"

    def holding(self, *words: str) -> list[str]:
        return [message for message in self.posted if all(word in message for word in words)]


@pytest.fixture(scope="module")
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.server.shutdown()


@pytest.fixture(scope="module")
def system(channel: Channel) -> Iterator[System]:
    urls = {"ALERT_URLS": f"json://{channel.at}{HOOK}", "ALERT_HEARTBEAT_URL": f"http://{channel.at}{HEARTBEAT}"}
    with System.running("alerts", [steered("steered", INFY)], **urls) as system:
        yield system


def test_what_happens_reaches_the_channel(system: System, channel: Channel) -> None:
    system.wait(lambda: channel.holding("INFO: ready", "SIMULATED"), "ready")
    system.wait(lambda: channel.pings, "a heartbeat")
    with Market(system, INFY) as market:
        system.wait(lambda: system.json("strategies"), "strategies")
        market.jump()
        system.wait(lambda: channel.holding("INFO: order filled", "INFY"), "a fill", 120)
        died = {name: system.kill(name) for name in ("portfolio", "alert-sender")}
        for name in died:
            system.wait(lambda name=name: channel.holding("process restarted", name), f"{name} restarted", 90)
        system.wait_ready(old_pids=died)
        system.command("kill", "on", "--strategy", "steered", "--yes", "--by", "ann", "--reason", "a test")
        system.wait(lambda: channel.holding("CRITICAL: kill engaged", "a test"), "kill engaged")
        system.wait(lambda: channel.holding("kill finished"), "kill finished", 120)
        system.command("kill", "off", "--strategy", "steered", "--yes", "--by", "ann", "--reason", "over")
        system.wait(lambda: channel.holding("kill released", "steered"), "kill released")
    listed = system.json("alerts", "list")
    assert {"ready", "order_filled", "process_restarted", "kill_engaged"} <= {row["kind"] for row in listed["alerts"]}
    tested = system.json("alerts", "test")
    assert [each["error"] for each in tested] == [None]
    for path in (system.home / "var" / "log").glob("*.log"):
        assert "s3cr3tpath" not in path.read_text(errors="replace"), path.name


def test_every_metric_and_label_used_is_on_the_page(system: System) -> None:
    page = httpx.get(f"http://127.0.0.1:{system.settings.api_port}/metrics", timeout=20).text
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            seen.setdefault(sample.name, set()).update(sample.labels)
    missing = {name for what in asked() for name in what.names if name not in seen}
    assert missing <= NOT_ALWAYS
    for what in asked():
        there: set[str] = set().union(*(seen.get(name, set()) for name in what.names))
        if not what.names & missing:
            assert what.labels <= there, what.where
