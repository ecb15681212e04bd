"""Routes of the login: page, redirect with request_token, session token, logout, profile. Logs no token."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox import errors
from sandbox.app import Sandbox, endpoint, form
from sandbox.wire import success

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Kite sandbox login</title>
<style>body{{font:16px system-ui;max-width:26rem;margin:5rem auto;padding:0 1rem}}button{{font:inherit;padding:.6rem 1.4rem}}</style>
<h1>Kite sandbox</h1><p>Simulated exchange, no real money. You sign in as <b>{user}</b> and go back to the app.</p>
<form method="post" action="/connect/login"><input type="hidden" name="api_key" value="{api_key}">
<input type="hidden" name="redirect_params" value="{params}"><button>Log in</button></form></html>"""


async def login_page(sandbox: Sandbox, request: Request) -> Response:
    """The page a person sees; `&auto=1` answers with the redirect at once."""
    query = request.query_params
    _check_key(sandbox, query.get("api_key", ""))
    if query.get("auto") == "1":
        return _redirect(sandbox, query.get("redirect_params", ""))
    return HTMLResponse(
        _PAGE.format(
            user=escape(sandbox.config.user_id),
            api_key=escape(query.get("api_key", "")),
            params=escape(query.get("redirect_params", "")),
        )
    )


async def login(sandbox: Sandbox, request: Request) -> Response:
    """The page's button, and what a script posts: 302 to the app's redirect URL."""
    fields = {**request.query_params, **await form(request)}
    _check_key(sandbox, fields.get("api_key", ""))
    return _redirect(sandbox, fields.get("redirect_params", ""))


async def create_session(sandbox: Sandbox, request: Request) -> Response:
    fields = await form(request)
    for name in ("api_key", "request_token", "checksum"):
        if not fields.get(name):
            raise errors.missing(name)
    return success(sandbox.sessions.create(fields["api_key"], fields["request_token"], fields["checksum"]))


async def end_session(sandbox: Sandbox, request: Request) -> Response:
    query = request.query_params
    sandbox.sessions.invalidate(query.get("api_key", ""), query.get("access_token", ""))
    return success(True)


async def profile(sandbox: Sandbox, request: Request) -> Response:
    return success(sandbox.sessions.profile())


def _check_key(sandbox: Sandbox, api_key: str) -> None:
    if api_key != sandbox.config.api_key:
        raise errors.bad_input("Invalid `api_key`.")


def _redirect(sandbox: Sandbox, params: str) -> Response:
    parts = urlsplit(sandbox.config.redirect_url)
    query = parse_qsl(parts.query)
    query += [("action", "login"), ("type", "login"), ("status", "success")]
    query += [("request_token", sandbox.sessions.mint_request_token()), *parse_qsl(params)]
    return RedirectResponse(urlunsplit(parts._replace(query=urlencode(query), path=parts.path or "/")), 302)


routes = [
    Route("/connect/login", endpoint(login_page, signed_in=False), methods=["GET"]),
    Route("/connect/login", endpoint(login, signed_in=False), methods=["POST"]),
]
api_routes = [
    Route("/session/token", endpoint(create_session, signed_in=False), methods=["POST"]),
    Route("/session/token", endpoint(end_session, signed_in=False), methods=["DELETE"]),
    Route("/user/profile", endpoint(profile), methods=["GET"]),
]
