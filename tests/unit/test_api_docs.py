"""The API's documentation pages work without another host: every script, style and picture is served by the API itself."""

from __future__ import annotations

import re

import httpx
import pytest

from api.app import create_app
from tests.strategy_world import make_settings


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_documentation_page_asks_no_other_host(page: str) -> None:
    transport = httpx.ASGITransport(app=create_app(make_settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get(page)
        assert answer.status_code == 200
        assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", answer.text)
        assert len(assets) >= 2
        assert "//" not in "".join(assets), "an asset of another host"
        assert not re.findall(r"https?://", answer.text)
        for asset in assets:
            found = await client.get(asset)
            assert found.status_code == 200, asset
            assert len(found.content) > 1000, asset
        assert (await client.get("/openapi.json")).json()["info"]["title"] == "Alpha Panda"
