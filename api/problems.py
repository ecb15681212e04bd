"""Every error as RFC 9457 problem+json: what happened and what to do, never a traceback."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from api.models import Problem
from core import logging
from core.errors import Transient
from core.storage.views import BadCursor

MEDIA_TYPE = "application/problem+json"
log = logging.get(__name__)


def problem(status: int, detail: str, errors: list[dict[str, Any]] | None = None) -> Response:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors for a route's OpenAPI entry."""
    return {
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        rows = [{"field": ".".join(str(part) for part in row["loc"]), "problem": row["msg"]} for row in error.errors()]
        words = "; ".join(f"{row['field']}: {row['problem']}" for row in rows)
        return problem(422, f"Not a valid request: {words}", jsonable_encoder(rows))

    @app.exception_handler(BadCursor)
    async def _cursor(_: Request, error: BadCursor) -> Response:
        return problem(422, str(error))

    @app.exception_handler(Transient)
    async def _away(_: Request, error: Transient) -> Response:
        return problem(503, str(error))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        log.error("request failed", path=request.url.path, error=repr(error))
        return problem(500, "An error of ours: see the log of the service `api`.")


class KnownHosts:
    """Refuses requests whose Host header names another machine: a page elsewhere cannot reach us through DNS rebinding."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and _name(hosts[0]) in self._allowed:
            await self._app(scope, receive, send)
            return
        shown = ", ".join(hosts) or "none"
        answer = problem(400, f"Host {shown!r} is not one of ours: add it to API_ALLOWED_HOSTS if it should be.")
        await answer(scope, receive, send)


def _name(host: str) -> str:
    """The host without its port: `localhost:28000` → `localhost`, `[::1]:28000` → `::1`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
