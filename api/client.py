"""The API as a program sees it: the same look-ups as `reads.py`, and the acts, over HTTP. The command line's remote mode is this.

Never repeats an act under another key: what got no answer is asked again with the same one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, SecretStr

from api.models import OrderDetail, OrderPage, PnlReport, PositionList, ReconciliationList, StrategyList, TopicStatus
from core.errors import AlphaPandaError, CommandConflict, CommandRefused, NotAllowed, NotLoggedIn, Transient
from core.storage.views import OrderFilter
from core.trading.types import Broker

M = TypeVar("M", bound=BaseModel)

TIMEOUT_S = 45.0
TRIES = 3
_RAISED: dict[int, type[AlphaPandaError]] = {401: NotLoggedIn, 403: NotAllowed, 409: CommandConflict, 503: Transient}


class ApiClient:
    """One connection to a control room. Close it.

    Every method raises AlphaPandaError with the problem's own words: Transient where a part, or the API itself, is away.
    """

    def __init__(self, url: str, token: SecretStr) -> None:
        headers = {"Authorization": f"Bearer {token.get_secret_value()}", "Accept": "application/json"}
        self._http = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/v1", headers=headers, timeout=TIMEOUT_S, trust_env=False
        )

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    # looking ---------------------------------------------------------------------------------------------------------

    async def orders(
        self, wanted: OrderFilter, *, broker: Broker | None = None, cursor: str | None = None, limit: int = 50
    ) -> OrderPage:
        query: dict[str, Any] = {
            "broker": broker,
            "status": [status.value for status in wanted.statuses],
            "strategy": wanted.strategy_id,
            "instrument": wanted.instrument,
            "since": wanted.since.isoformat() if wanted.since else None,
            "cursor": cursor,
            "limit": limit,
        }
        return await self._get(OrderPage, "/orders", query)

    async def order(self, order_id: UUID) -> OrderDetail | None:
        answer = await self._ask("GET", f"/orders/{order_id}")
        if answer.status_code == 404:
            return None
        return OrderDetail.model_validate(_good(answer))

    async def positions(
        self, *, broker: Broker | None = None, instance: str | None = None, open_only: bool = False
    ) -> PositionList:
        query = {"broker": broker, "instance": instance, "open": open_only}
        return await self._get(PositionList, "/positions", query)

    async def pnl(self, *, broker: Broker | None = None, instance: str | None = None) -> PnlReport:
        return await self._get(PnlReport, "/pnl", {"broker": broker, "instance": instance})

    async def reconciliations(self, *, broker: Broker | None = None, limit: int = 1) -> ReconciliationList:
        return await self._get(ReconciliationList, "/reconciliation", {"broker": broker, "limit": limit})

    async def strategies(self) -> StrategyList:
        return await self._get(StrategyList, "/strategies", {})

    async def topics(self) -> list[TopicStatus]:
        rows = _good(await self._ask("GET", "/streams"))["topics"]
        return [TopicStatus.model_validate(row) for row in rows]

    async def read(self, path: str, *, missing: bool = False, **query: Any) -> Any:
        """What the API answers there, as JSON; `missing`: None for what there is not."""
        given = {name: value for name, value in query.items() if value is not None}
        answer = await self._ask("GET", path, params=given)
        return None if missing and answer.status_code == 404 else _good(answer)

    async def _get(self, kind: type[M], path: str, query: dict[str, Any]) -> M:
        given = {name: value for name, value in query.items() if value not in (None, [])}
        return kind.model_validate(_good(await self._ask("GET", path, params=given)))

    # acting ----------------------------------------------------------------------------------------------------------

    async def act(
        self, path: str, body: dict[str, Any], *, key: str | None = None, method: str = "POST", **query: Any
    ) -> dict[str, Any]:
        """Ask for it, once: the same key goes out again where no answer came."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        answer: dict[str, Any] = _good(await self._ask(method, path, json=body, params=query, headers=headers))
        return answer

    async def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        problem: httpx.HTTPError | None = None
        for _ in range(TRIES):
            try:
                return await self._http.request(method, path, **given)
            except httpx.TransportError as error:
                problem = error
        raise Transient(f"{self._http.base_url} does not answer: {type(problem).__name__}")


def _good(answer: httpx.Response) -> Any:
    """The answer's body. Raises what its problem says."""
    if answer.is_success:
        return answer.json()
    try:
        words = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        words = f"{answer.request.url} answered HTTP {answer.status_code}: is it the control room's address?"
    raise _RAISED.get(answer.status_code, CommandRefused)(words)
