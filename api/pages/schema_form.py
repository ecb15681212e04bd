"""A form from a pydantic model: one field a parameter, with its bounds and words. The model itself is what judges the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from api.pages import formats
from api.pages.dialogs import Field, Values

PREFIX = "p."
"""Keeps a parameter's name apart from the other fields of its form."""


def fields_of(model: type[BaseModel], given: Mapping[str, Any]) -> list[Field]:
    """A field for each of the model's, with the given value or the model's default."""
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    return [
        _field(name, about, given.get(name, about.get("default")), name in required)
        for name, about in schema.get("properties", {}).items()
    ]


def _field(name: str, about: Mapping[str, Any], value: Any, required: bool) -> Field:
    label = formats.words(name).removesuffix(" s") + (" (s)" if name.endswith("_s") else "")
    kind, props = _kind(about)
    bounds = [f"{word} {_plain(about[key])}" for key, word in _BOUNDS.items() if key in about]
    hint = ", ".join(each for each in (about.get("description", ""), " ".join(bounds)) if each)
    options = [str(each) for each in about.get("enum", ())]
    if "minimum" in about:
        props["min"] = about["minimum"]
    if "maximum" in about:
        props["max"] = about["maximum"]
    shown = value if kind == "checkbox" else "" if value is None else str(value)
    if options:
        return Field(PREFIX + name, label, options=options, value=shown, hint=hint)
    return Field(
        PREFIX + name, label, kind=kind, value=shown, hint=hint, required=required and kind != "checkbox", **props
    )


_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def _plain(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, int | float) else str(bound)


def _kind(about: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    types = {about.get("type"), *(one.get("type") for one in about.get("anyOf", ()))}
    if "boolean" in types:
        return "checkbox", {}
    if "integer" in types:
        return "number", {"step": 1}
    if "number" in types:
        return "number", {"step": "any"}
    return "text", {}


def values_of(model: type[BaseModel], values: Values) -> dict[str, Any]:
    """The parameters in the form's values, as JSON would have them; what was left empty takes the model's default."""
    found: dict[str, Any] = {}
    for name, about in model.model_json_schema().get("properties", {}).items():
        value = values.get(PREFIX + name)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        found[name] = _typed(about, value)
    return found


def _typed(about: Mapping[str, Any], value: Any) -> Any:
    kind, props = _kind(about)
    if kind != "number" or not isinstance(value, str):
        return value
    if "anyOf" in about:
        return value.strip()  # a Decimal takes it as it was typed
    try:
        return int(value) if props["step"] == 1 else float(value)
    except ValueError:
        return value  # the model says what is wrong with it
