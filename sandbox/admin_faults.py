"""The admin routes of faults and limits: put rules to work, see what fired, take them away."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import errors
from sandbox.admin import json_body, local, whole
from sandbox.app import Sandbox
from sandbox.fault_kinds import CATALOGUE
from sandbox.faults import parse
from sandbox.wire import success

_LOGGED = 100


async def give(sandbox: Sandbox, request: Request) -> Response:
    """One rule, a list of rules, or `{"seed": 7, "rules": […]}`; answers the rules as kept."""
    try:
        rules = parse(await json_body(request)).seeded()
    except ValueError as error:
        raise errors.bad_input(str(error)) from None
    for symbol in {rule.symbol for rule in rules if rule.symbol is not None} - {"*"}:
        if not set("*?[") & set(symbol) and sandbox.board.find_instrument(symbol) is None:
            raise errors.bad_input(f"`symbol`: there is no {symbol}.")
    kept = sandbox.faults.add(rules)
    for rule in kept:
        if rule.now:
            sandbox.order_faults.act_now(partial(sandbox.faults.take, rule), rule.kind, rule.symbol)
    sandbox.order_faults.arm_account_rules()
    return success(sandbox.faults.rules([str(rule.id) for rule in kept]))


async def show(sandbox: Sandbox, request: Request) -> Response:
    """`?log=N` firings, the last ones; `?after=SEQ` later ones only."""
    query = request.query_params
    return success(
        sandbox.faults.report(whole(query.get("log"), "log", _LOGGED), whole(query.get("after"), "after", 0))
    )


async def take_away(sandbox: Sandbox, request: Request) -> Response:
    """`?id=…`: one rule; without, all. Counts and log stay."""
    return success({"deleted": sandbox.faults.remove(request.query_params.get("id"))})


async def kinds(sandbox: Sandbox, request: Request) -> Response:
    rows: dict[str, Any] = {}
    for kind, spec in CATALOGUE.items():
        rows[kind] = {"family": spec.family, "what": spec.what, "source": spec.source, "parameters": spec.defaults}
    return success(rows)


async def limits(sandbox: Sandbox, request: Request) -> Response:
    """GET: limits, refusals, peaks. POST `{"strict": true, "orders_per_second": 10, …}` until the next start."""
    if request.method == "POST":
        body, present = await json_body(request), sandbox.limiter.limits
        for name, value in body.items() if isinstance(body, dict) else ():
            good = isinstance(value, bool) if name == "strict" else type(value) is int and value > 0
            if name not in present.__slots__ or not good:
                raise errors.invalid(name)
        sandbox.limiter.limits = replace(present, **body)
    return success(sandbox.limiter.info())


routes = [
    Route("/admin/faults", local(give), methods=["POST"]),
    Route("/admin/faults", local(show), methods=["GET"]),
    Route("/admin/faults", local(take_away), methods=["DELETE"]),
    Route("/admin/faults/kinds", local(kinds), methods=["GET"]),
    Route("/admin/limits", local(limits), methods=["GET", "POST"]),
]
