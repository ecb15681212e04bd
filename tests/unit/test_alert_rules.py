"""The example alert rules speak of metrics and labels that exist, and each says what to do."""

from __future__ import annotations

import re
from typing import Any

import yaml

from core import metrics
from core.config import PROJECT_ROOT
from core.trading.types import OrderStatus

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROJECT_ROOT / "docs" / "alert-rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
METRICS = {value._name: value for value in vars(metrics).values() if hasattr(value, "_labelnames")}


def metric_of(name: str) -> Any:
    return METRICS.get(name) or METRICS.get(name.removesuffix("_total"))


def test_every_metric_and_label_of_a_rule_exists() -> None:
    assert RULES
    for rule in RULES:
        names = re.findall(r"alpha_panda_\w+", rule["expr"])
        assert names, rule["alert"]
        for name in names:
            assert metric_of(name) is not None, f"{rule['alert']}: {name} is no metric of ours"
        known = {label for name in names for label in metric_of(name)._labelnames}
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        grouped = {each.strip() for part in re.findall(r"by \(([^)]*)\)", rule["expr"]) for each in part.split(",")}
        picked = set(re.findall(r"(\w+)(?:=~|!=|=)\"", rule["expr"]))
        assert used | grouped | picked <= known, rule["alert"]


def test_the_states_named_are_states() -> None:
    found = re.findall(r"status=~\"([^\"]+)\"", " ".join(rule["expr"] for rule in RULES))
    assert {state for each in found for state in each.split("|")} <= {status.value for status in OrderStatus}


def test_every_rule_says_what_to_do_and_one_watches_the_dead_letters() -> None:
    assert all(rule["annotations"]["summary"] and rule["annotations"]["action"] for rule in RULES)
    assert any("alpha_panda_dlq_depth" in rule["expr"] for rule in RULES)
