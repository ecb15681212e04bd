"""The API's documentation pages work without another host, and show an example of all that is asked and answered."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from api.app import create_app
from api.examples import ANSWERS, ASKED
from tests.strategy_world import make_settings


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(make_settings())


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_documentation_page_asks_no_other_host(app: FastAPI, page: str) -> None:
    transport = httpx.ASGITransport(app=app)
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


def _shown(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The schema behind a body or an answer."""
    schema = part["content"]["application/json"]["schema"]
    return dict(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])


def test_every_body_and_every_answer_has_an_example_and_every_route_words(app: FastAPI) -> None:
    document = app.openapi()
    asked = told = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            assert operation["summary"], name
            assert operation["description"], name
            if "requestBody" in operation:
                asked += 1
                assert _shown(document, operation["requestBody"])["examples"], f"{name}: its body"
            for status in ("200", "201", "202"):
                part = operation["responses"].get(status, {})
                if "application/json" in part.get("content", {}):
                    told += 1
                    assert _shown(document, part)["examples"], f"{name}: its answer"
    assert (asked > 20, told > 40) == (True, True)


@pytest.mark.parametrize("kind", list(ASKED), ids=lambda kind: str(kind.__name__))
def test_the_example_of_a_body_is_one(kind: type[BaseModel]) -> None:
    assert kind.model_validate(ASKED[kind])


def test_an_example_names_no_two_things() -> None:
    names = [kind.__name__ for kind in ASKED] + [type(answer).__name__ for answer in ANSWERS]
    assert len(names) == len(set(names))
