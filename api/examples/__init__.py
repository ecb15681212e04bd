"""One example of every body and every answer, put into the API's own documentation. Made-up figures, never anybody's."""

from __future__ import annotations

from typing import Any

from api.examples.answers import ANSWERS
from api.examples.asked import ASKED


def put_in(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with an example in each schema that is a whole body or answer."""
    schemas = document["components"]["schemas"]
    found = {kind.__name__: example for kind, example in ASKED.items()}
    found |= {type(answer).__name__: answer.model_dump(mode="json") for answer in ANSWERS}
    for name, example in found.items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    return document
