"""Programs and the command line ask a control room elsewhere, and hear what the machine itself would say."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from api.app import create_app
from core.config import Settings
from core.people.roles import Role
from core.storage.db import broker_engine
from core.storage.kill import kill_state
from core.trading.types import Broker
from tests.integration.test_acting import Room, made, name, room
from tests.integration.test_dlq import die
from tests.integration.test_portfolio_cli import run
from tests.integration.webhook import listening
from tests.journal_world import JournalWorld

__all__ = ["name", "room"]  # fixtures
pytestmark = [pytest.mark.stack]
PAPER = Broker.PAPER


async def test_the_command_line_asks_a_control_room_elsewhere(room: Room, settings: Settings, name: str) -> None:
    await made(room, name)
    url = f"http://{settings.api_host}:{settings.api_port}"
    there = ("--url", url, "--token", room._keys[Role.TRADER])
    paused = await run(*there, "strategies", "activate", name, "--reason", "from afar", "--json")
    assert json.loads(paused.stdout)["version"] == 2, paused.stderr
    assert (await room.audited("strategy.activate", name))["via"].startswith("key ")
    listed = await run(*there, "strategies", "--json")
    assert name in {row["strategy_id"] for row in json.loads(listed.stdout)}
    engine = broker_engine(settings, PAPER)
    order_id = await (await JournalWorld.make(engine, PAPER)).order()
    await engine.dispose()
    asked = await run(*there, "cancel", str(order_id), "--reason", "from afar", "--wait", "0", "--json")
    assert (asked.exit_code, json.loads(asked.stdout)["kind"]) == (3, "CANCEL"), asked.stderr
    assert (await run(*there, "users", "list")).exit_code == 1
    await room.ask(f"/strategies/{name}/pause", {})
    assert (
        "role admin"
        in (await run(*there, "strategies", "opt-in", name, "--target", "local", "--yes", "--by", "me")).stderr
    )


async def test_operators_commands_say_elsewhere_what_they_say_here(room: Room, settings: Settings, name: str) -> None:
    there = ("--url", f"http://{settings.api_host}:{settings.api_port}", "--token", room._keys[Role.TRADER])
    await die(settings, PAPER, name)
    engine = broker_engine(settings, PAPER)
    flag = {"broker": "paper", "strategy": name, "typed": "kill", "reason": "looks wrong"}
    assert (await room.ask("/kill-switch/engage", flag)).status_code == 202
    commands = (("kill", "status", "--json"), ("dlq", "list", "--json", "--reason", name))
    ran = await asyncio.gather(*(run(*where, *command) for command in commands for where in ((), there)))
    said = [json.loads(each.stdout) for each in ran]
    assert said[0] == said[1], ran[1].stderr
    assert said[2] == said[3], ran[3].stderr
    (letter,) = said[3]
    off = ("kill", "off", "--broker", "paper", "--strategy", name, "--yes", "--reason", "mended", "--force")
    would, refused = await asyncio.gather(
        run(*there, "dlq", "replay", letter["letter"], "--json"),
        run(*there, *off),
    )
    assert json.loads(would.stdout)[0]["outcome"] == "would be replayed", would.stderr
    assert (refused.exit_code, "role admin" in refused.stdout) == (1, True)
    freed = await run(*there[:3], room._keys[Role.ADMIN], *off)
    assert (freed.exit_code, "entries may go again" in freed.stdout) == (0, True), freed.stdout + freed.stderr
    assert name not in (await kill_state(engine, "PAPER")).strategy_flags
    await engine.dispose()


async def test_a_test_of_the_alert_channels_needs_one_and_is_audited(room: Room, settings: Settings) -> None:
    assert (await room.ask("/alerts/test", {}, Role.VIEWER)).status_code == 403
    none = await room.ask("/alerts/test", {})
    assert (none.status_code, "ALERT_URLS names no channel" in none.json()["detail"]) == (422, True)
    async with listening() as hook:
        app = create_app(settings.model_copy(update={"alert_urls": SecretStr(hook.url)}))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as client:
            other, key = Room(client, room._keys), str(uuid4())
            tried = await other.ask("/alerts/test", {"reason": "is it well?"}, key=key)
            again = await other.ask("/alerts/test", {"reason": "is it well?"}, key=key)
        await app.state.links.close()
        await app.state.reads.close()
        assert len(hook.messages) == 1, "asked again with the same key is asked once"
    assert (
        tried.json()
        == again.json()
        == {"tested": [{"channel": tried.json()["tested"][0]["channel"], "error": None}], "in_history": True}
    )
    assert "s3cr3tpath" not in tried.text
    row = await room.audited("alerts.test", "channels")
    assert (row["reason"], row["after"]) == ("is it well?", {"tried": 1, "failed": 0})
    told = (await room.get("/alerts/history", kind="test", limit=1)).json()["alerts"][0]
    assert [each["state"] for each in told["told"]] == ["SENT"]
