"""Remote mode: `alpha-panda --url … --token … COMMAND` asks a control room's API instead of the stores on this machine.

The same commands say the same. What needs the machine itself (start and stop, login, users) refuses, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from core.errors import StopTheStart

if TYPE_CHECKING:
    from api.client import ApiClient
    from control.acts import Act
    from control.strategies import Changed, Edits
    from core.storage.commands import CommandRecord
    from core.trading.commands import CommandKind
    from core.trading.types import Broker, KiteTarget

T = TypeVar("T")

LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a control room is, and a key for it."""

    url: str
    token: str


_target: Remote | None = None


def use(url: str, token: str) -> None:
    """From now on this process asks there.

    Raises:
        StopTheStart: only one of the two was given.
    """
    global _target
    if not url and not token:
        return
    if not url or not token:
        raise StopTheStart("--url and --token go together (or ALPHA_PANDA_URL and ALPHA_PANDA_TOKEN).")
    if not url.startswith(("http://", "https://")):
        raise StopTheStart(f"--url {url!r}: begin with http:// or https://")
    _target = Remote(url, token)


def is_on() -> bool:
    return _target is not None


def client() -> ApiClient:
    """A client of the control room. Close it."""
    from pydantic import SecretStr

    from api.client import ApiClient

    assert _target is not None
    return ApiClient(_target.url, SecretStr(_target.token))


def asking(work: Callable[[ApiClient], Awaitable[T]]) -> T:
    """Run `work` with a client of the control room and close it.

    Raises:
        StopTheStart: it answers what we do not understand. Whatever `work` raises.
    """
    from pydantic import ValidationError

    async def run() -> T:
        async with client() as api:
            try:
                return await work(api)
            except (ValidationError, KeyError) as error:
                what = type(error).__name__
                raise StopTheStart(
                    f"{_target.url if _target else ''} answers what this command line does not understand ({what}): "
                    "are both of the same version?"
                ) from error

    return asyncio.run(run())


def refuse(what: str) -> None:
    """Raises StopTheStart in remote mode: this needs the machine itself."""
    if _target is not None:
        raise StopTheStart(
            f"{what} works at the machine itself, without --url; the control room's pages and API can do more."
        )


async def command(
    order: str, kind: CommandKind, parameters: dict[str, Any], asked: Act, wait: float
) -> tuple[CommandRecord, str | None]:
    """A command on an order: its record, and why its workflow was not told yet, if so. Raises AlphaPandaError."""
    from datetime import datetime

    from core.storage.commands import CommandRecord
    from core.trading.commands import CommandOutcome, CommandState

    async with client() as api:
        order_id = await _find(api, order)
        more = {"order_id": str(order_id)} if "resolution" in parameters else {}
        found = await api.act(
            f"/orders/{order_id}/{kind.lower()}",
            {"reason": asked.reason} | parameters | more,
            key=str(asked.request_id),
            wait=min(wait, LONGEST_WAIT_S),
        )
    record = CommandRecord(
        request_id=UUID(found["request_id"]),
        order_id=order_id,
        kind=kind,
        parameters=found["parameters"],
        requested_by=found["requested_by"],
        reason=found["reason"],
        state=CommandState(found["state"]),
        outcome=CommandOutcome(found["outcome"]) if found["outcome"] else None,
        evidence=found["evidence"],
        created_at=datetime.fromisoformat(found["created_at"]),
        sent_at=None,
        finished_at=datetime.fromisoformat(found["finished_at"]) if found["finished_at"] else None,
    )
    return record, found["note"]


async def _find(api: ApiClient, text: str) -> UUID:
    """The one order whose id ends so, among the newest 500; a whole id is taken as it is."""
    from core.errors import CommandRefused
    from core.storage.views import OrderFilter

    try:
        return UUID(text)
    except ValueError:
        page = await api.orders(OrderFilter(), limit=500)
    found = [row.order_id for row in page.orders if str(row.order_id).endswith(text.lower())]
    if len(found) != 1:
        raise CommandRefused(f"{len(found)} of the newest orders end with {text!r}: give more of the id.")
    return found[0]


class RemoteStrategies:
    """What `control.strategies` does, asked of a control room."""

    async def change(self, api: ApiClient, act: Act, name: str, edits: Edits) -> Changed:
        body: dict[str, Any] = {
            "set": dict(edits.set_parameters or {}) or None,
            "unset": sorted(edits.unset),
            "product": edits.product,
            "age_limit_s": edits.age_limit_s,
            "capital": str(edits.capital) if edits.capital is not None else None,
        }
        if edits.add_instruments or edits.remove_instruments:
            rows = {row.strategy_id: row for row in (await api.strategies()).strategies}
            here = rows[name].instruments if name in rows else []
            kept = [key for key in here if key not in edits.remove_instruments]
            body["instruments"] = list(dict.fromkeys([*kept, *edits.add_instruments]))
        given = {key: value for key, value in body.items() if value not in (None, [])}
        return await self._ask(api, act, f"/strategies/{name}", given, "PATCH")

    async def activate(self, api: ApiClient, act: Act, name: str) -> Changed:
        return await self._ask(api, act, f"/strategies/{name}/activate", {})

    async def pause(self, api: ApiClient, act: Act, name: str) -> Changed:
        return await self._ask(api, act, f"/strategies/{name}/pause", {})

    async def opt_in(self, api: ApiClient, act: Act, name: str, broker: Broker, target: KiteTarget) -> Changed:
        body = {"broker": broker.value, "target": target.value, "typed": target.value}  # typed at our own prompt
        return await self._ask(api, act, f"/strategies/{name}/opt-in", body)

    async def opt_out(self, api: ApiClient, act: Act, name: str, broker: Broker) -> Changed:
        return await self._ask(api, act, f"/strategies/{name}/opt-out", {"broker": broker.value})

    async def _ask(self, api: ApiClient, act: Act, path: str, body: dict[str, Any], method: str = "POST") -> Changed:
        from control.strategies import Changed
        from core.storage.strategies import StrategyConfig

        found = await api.act(path, body | {"reason": act.reason}, key=str(act.request_id), method=method)
        row = StrategyConfig.from_row(found["row"]) if found["row"] else None
        return Changed(row, found["announced"])


def strategies() -> Any:
    """`control.strategies`, or the same of a control room."""
    if _target is not None:
        return RemoteStrategies()
    from control import strategies as ours

    return ours
