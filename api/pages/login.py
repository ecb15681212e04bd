"""The login page: plain HTML and one script, for nobody is known yet. The password goes to the API's own login and nowhere else."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse

from api.auth import open_to_all
from api.deps import SettingsDep
from api.pages.guard import LOGIN, ROOM
from api.pages.target import banner

router = APIRouter(include_in_schema=False, dependencies=[open_to_all])

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Alpha Panda</title>
<link rel="stylesheet" href="/room/static/room.css">
<link rel="icon" href="/room/static/icon.svg">
<script src="/room/static/login.js" defer></script>
</head>
<body class="plain">
<main>
<h1>Alpha Panda</h1>
<p class="chip target-{kind}">{word}</p>
<p class="quiet">{text}</p>
<form id="login" method="post" action="/login">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<p id="said" role="alert"></p>
<button type="submit" class="act primary">Log in</button>
</form>
<p class="quiet">The first password was shown once by <code>make setup</code>. Lost it? On the machine itself:
<code>alpha-panda users reset-password admin</code>.</p>
<noscript><p>The control room needs JavaScript.</p></noscript>
</main>
</body>
</html>"""


@router.get("/", response_class=RedirectResponse)
async def front() -> RedirectResponse:
    """The one address to remember."""
    return RedirectResponse(f"{ROOM}/", 303)


@router.get(LOGIN, response_class=HTMLResponse)
async def login(settings: SettingsDep) -> HTMLResponse:
    """Open: it is how one becomes known."""
    shown = banner(settings)
    page = _PAGE.format(kind=shown.kind, word=shown.word, text=shown.text)
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})
