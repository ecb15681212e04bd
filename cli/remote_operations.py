"""The operator's commands asked of a control room: kill switch, dead letters, reconciliation, alert channels.

Each class has the methods of its module in `control`, so that a command says the same here and there. Decides nothing itself.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import TypeAdapter

from api.client import ApiClient
from api.models import Round
from control.alerts import Tested
from core import ids
from core.errors import Transient
from core.events import topics
from core.messaging.dlq import PREFIX
from core.messaging.dlq_letters import Letter
from core.messaging.records import Record
from core.routing import kill_workflow_id
from core.storage.alerts import ChannelState, History, Outcome
from core.storage.dlq_actions import Closed, DlqAction
from core.storage.kill import KillRecord, KillState
from core.trading.types import Broker

if TYPE_CHECKING:
    from control.acts import Act

KILL_WORD, RELEASE_WORD = "kill", "release"
"""Typed by the person at our own prompt, or given by a program's --yes."""

MOST_WAIT_S = 20.0
"""Of one request: its answer must come before the client gives up."""

_RECORD = TypeAdapter(KillRecord)
_HISTORY = TypeAdapter(list[History])
_CHANNELS = TypeAdapter(list[ChannelState])


class RemoteKill:
    """`control.kill` of a control room."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._trouble: dict[Broker, str] = {}

    async def brokers(self, broker: Broker | None) -> list[Broker]:
        return [broker] if broker is not None else list(await self._states())

    async def engage(
        self, act: Act, broker: Broker, strategy_id: str | None, *, include_foreign: bool = False
    ) -> KillRecord:
        body = {
            "broker": broker.value,
            "strategy": strategy_id,
            "include_foreign": include_foreign,
            "typed": KILL_WORD,
            "reason": act.reason,
        }
        found = await self._api.act("/kill-switch/engage", body, key=_key(act, "engage", broker))
        self._trouble |= {Broker(name): words for name, words in found["trouble"].items()}
        return _RECORD.validate_python(found["switches"][0])

    async def work(self, broker: Broker, record: KillRecord) -> str:
        """The control room started it when it engaged. Raises Transient where it could not."""
        if broker in self._trouble:
            raise Transient(self._trouble[broker])
        return kill_workflow_id(broker, record.kill_id)

    async def release(self, act: Act, broker: Broker, strategy_id: str | None, *, force: bool = False) -> None:
        body = {
            "broker": broker.value,
            "strategy": strategy_id,
            "force": force,
            "typed": RELEASE_WORD,
            "reason": act.reason,
        }
        await self._api.act("/kill-switch/release", body, key=_key(act, "release", broker))

    async def state(self, broker: Broker) -> KillState:
        return (await self._states())[broker]

    async def read(self, broker: Broker, kill_id: UUID) -> KillRecord | None:
        """None once it is released."""
        found = await self.state(broker)
        return next((record for record in found.open if record.kill_id == kill_id), None)

    async def _states(self) -> dict[Broker, KillState]:
        rows = (await self._api.read("/kill-switch"))["brokers"]
        return {
            Broker(row["broker"]): KillState(
                row["account_flag"],
                row["strategy_flags"],
                tuple(_RECORD.validate_python(each) for each in row["switches"]),
            )
            for row in rows
        }


class RemoteLetters:
    """`control.dead_letters` of a control room."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def letters(self) -> list[Letter]:
        rows = (await self._api.read("/dead-letters", closed=True))["letters"]
        return [_letter(row) for row in rows]

    async def whole(self, letter: Letter) -> Letter:
        """With its headers and bytes."""
        return _letter(await self._api.read(f"/dead-letters/{letter.name}"))

    async def replay(
        self, act: Act, meant: Sequence[Letter], *, force: bool, really: bool = True
    ) -> list[tuple[Letter, str]]:
        more = {"force": force, "dry_run": not really}
        return await self._ask(act, "replay", meant, more) if meant else []

    async def drop(self, act: Act, meant: Sequence[Letter]) -> list[tuple[Letter, str]]:
        return await self._ask(act, "drop", meant, {}) if meant else []

    async def _ask(
        self, act: Act, verb: str, meant: Sequence[Letter], more: dict[str, Any]
    ) -> list[tuple[Letter, str]]:
        by_name = {letter.name: letter for letter in meant}
        body = {"letters": list(by_name), "reason": act.reason or f"asked by {act.by}"} | more
        found = await self._api.act(f"/dead-letters/{verb}", body, key=_key(act, verb))
        return [(by_name[row["letter"]], row["outcome"]) for row in found["outcomes"]]


def _letter(row: dict[str, Any]) -> Letter:
    """A letter as the API tells it; without headers and bytes where it tells a list."""
    topic, partition, offset = row["letter"].rsplit("/", 2)
    reason = {"stage": "stage", "error_type": "error-type", "error": "error-message"}
    reason |= {"attempts": "attempts", "consumer_group": "consumer-group", "failed_at": "failed-at"}
    told = {PREFIX + header: row[field] for field, header in reason.items()} | {"type": row["type"]}
    if row["event_id"] is not None:
        told["id"] = row["event_id"]
    headers = {name: value.encode() for name, value in (row.get("headers") or told).items()}
    value = base64.b64decode(row.get("value_base64", ""))
    closed = Closed(DlqAction(row["state"]), row["by"], row["note"]) if row["state"] != "OPEN" else None
    return Letter(
        Record(topics.dlq(topic), int(partition), int(offset), row["key"].encode(), value, headers, 0), closed
    )


async def reconcile(api: ApiClient, act: Act, broker: Broker | None, *, within_s: float) -> list[Round]:
    """A round of each broker, asked for now.

    Raises:
        Transient: none came in time; it comes all the same, and `reconcile --last` shows it.
    """
    brokers = (
        [broker]
        if broker is not None
        else [Broker(row["broker"]) for row in (await api.read("/kill-switch"))["brokers"]]
    )
    asked = {one: await _ask_round(api, act, one) for one in brokers}
    return [await _round(api, one, request_id, within_s) for one, request_id in asked.items()]


async def _ask_round(api: ApiClient, act: Act, broker: Broker) -> UUID:
    body = {"broker": broker.value, "reason": act.reason}
    return UUID((await api.act("/reconciliation/run", body, key=_key(act, "reconcile", broker)))["request_id"])


async def _round(api: ApiClient, broker: Broker, request_id: UUID, within_s: float) -> Round:
    """The round that answers the request, waited for in questions short enough for the client."""
    until = time.monotonic() + within_s
    while True:
        wait = max(0.0, min(MOST_WAIT_S, until - time.monotonic()))
        found = await api.read(f"/reconciliation/{broker.value}/{request_id}", missing=True, wait=wait)
        if found is not None:
            return Round.model_validate(found)
        if time.monotonic() >= until:
            raise Transient(
                f"no round of {broker} came within {within_s:.0f} s; it was asked for and will come: look at "
                "`alpha-panda reconcile --last`"
            )


class RemoteAlerts:
    """`control.alerts` of a control room."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def channel_states(self) -> list[ChannelState]:
        rows = (await self._api.read("/alerts/channels"))["channels"]
        return _CHANNELS.validate_python([row | {"active": True} for row in rows])

    async def history(self, *, kind: str | None, state: Outcome | None, limit: int) -> list[History]:
        found: list[History] = []
        cursor = None
        while len(found) < limit:
            most = min(limit - len(found), 500)
            page = await self._api.read("/alerts/history", kind=kind, state=state, cursor=cursor, limit=most)
            found += _HISTORY.validate_python(page["alerts"])
            cursor = page["next"]
            if cursor is None:
                break
        return found

    async def try_channels(self, act: Act) -> tuple[list[Tested], bool]:
        found = await self._api.act("/alerts/test", {"reason": act.reason}, key=_key(act, "test"))
        return [Tested(row["channel"], row["error"]) for row in found["tested"]], found["in_history"]


def _key(act: Act, *what: object) -> str:
    """The same act asked again is the same request."""
    return str(ids.derive(act.request_id, *what))
