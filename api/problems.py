"""Every error as RFC 9457 problem+json: what happened and what to do, never a traceback and never a secret."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from api.models import Problem
from control.dead_letters import UnknownLetter
from core import logging
from core.errors import (
    AlphaPandaError,
    BrokerError,
    CommandConflict,
    CommandRefused,
    LockedOut,
    NotAllowed,
    NotLoggedIn,
    StopTheStart,
    Transient,
)
from core.storage.api_keys import UnknownKey
from core.storage.journal import NoSuchOrder
from core.storage.kill import KillBusy
from core.storage.strategy_changes import StrategyExists, UnknownStrategy
from core.storage.users import NameTaken, UnknownUser
from core.storage.views import BadCursor

MEDIA_TYPE = "application/problem+json"
log = logging.get(__name__)

STATUS: tuple[tuple[type[AlphaPandaError], int], ...] = (
    (NotLoggedIn, 401),
    (NotAllowed, 403),
    (NoSuchOrder, 404),
    (UnknownStrategy, 404),
    (UnknownUser, 404),
    (UnknownKey, 404),
    (UnknownLetter, 404),
    (CommandConflict, 409),
    (KillBusy, 409),
    (NameTaken, 409),
    (StrategyExists, 409),
    (BadCursor, 422),
    (CommandRefused, 422),
    (LockedOut, 429),
    (BrokerError, 502),
    (Transient, 503),
    (StopTheStart, 422),
)
"""What each of our errors is to whoever asked; the first that fits."""


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


def guarded(*more: int) -> dict[int | str, dict[str, Any]]:
    """The errors of every route that asks who you are, and these."""
    return documented(*sorted({401, 403, 422, 503, *more}))


OF_A_BODY = (400, 408, 413)
"""What any route that takes a body may answer of the body itself: no JSON, too slow, too large."""


def acting(*more: int) -> dict[int | str, dict[str, Any]]:
    """The errors of every route that changes something, and these."""
    return guarded(409, *OF_A_BODY, *more)


def status_of(error: AlphaPandaError) -> int:
    """500: an error of ours that nobody who asks can do anything about."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def of_error(error: AlphaPandaError) -> Response:
    """Our own errors say what to do; those that are nobody's business but ours do not."""
    status = status_of(error)
    if status == 500:
        return problem(500, "An error of ours: see the log of the service `api`.")
    answer = problem(status, str(error), _fields(error) if status == 422 else None)
    if isinstance(error, NotLoggedIn):
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, LockedOut):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


def _fields(error: AlphaPandaError) -> list[dict[str, Any]] | None:
    """`field: what is wrong` lines as rows; None where a line names no field."""
    rows = []
    for line in str(error).splitlines():
        field, sign, words = line.strip().partition(": ")
        if sign and field and len(field) <= 60 and " " not in field.replace(", ", ","):
            rows.append({"field": field, "problem": words})
    return rows or None


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

    @app.exception_handler(AlphaPandaError)
    async def _ours(request: Request, error: AlphaPandaError) -> Response:
        if status_of(error) == 500:
            log.error("request failed", path=request.url.path, error=repr(error))
        return of_error(error)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        log.error("request failed", path=request.url.path, error=repr(error))
        return problem(500, "An error of ours: see the log of the service `api`.")
