"""Alert rules and dashboards speak of metrics and labels that exist, and each rule says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from core import metrics
from core.alerting.kinds import INFO
from core.config import PROJECT_ROOT
from core.trading.types import OrderStatus
from tests.monitoring import RULES_FILE, asked

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
]
METRICS = {value._name: value for value in vars(metrics).values() if hasattr(value, "_labelnames")}


def metric_of(name: str) -> Any:
    """The metric behind a series; a suffix is right only on the kind that has it."""
    for suffix, kind in (
        ("_total", "counter"),
        ("_bucket", "histogram"),
        ("_sum", "histogram"),
        ("_count", "histogram"),
    ):
        found = METRICS.get(name.removesuffix(suffix))
        if name.endswith(suffix) and found is not None and found._type == kind:
            return found
    found = METRICS.get(name)
    return found if found is not None and found._type == "gauge" else None


@pytest.mark.parametrize("what", asked(), ids=lambda what: what.where)
def test_every_metric_and_label_used_exists(what: Any) -> None:
    assert what.names, what.where
    for name in what.names:
        assert metric_of(name) is not None, f"{what.where}: {name} is no metric of ours"
    known = {label for name in what.names for label in metric_of(name)._labelnames}
    if any(name.endswith("_bucket") for name in what.names):
        known.add("le")
    assert what.labels <= known, what.where


def test_every_metric_has_a_place_on_a_dashboard() -> None:
    shown = {metric_of(name)._name for what in asked() if "rule" not in what.where for name in what.names}
    assert shown == set(METRICS)


def test_the_states_named_are_states() -> None:
    found = re.findall(r"status=~\"([^\"]+)\"", " ".join(what.expr for what in asked()))
    assert found
    assert {state for each in found for state in each.split("|")} <= {status.value for status in OrderStatus}


def test_good_news_raises_no_rule() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "AlertRaised"]
    (kinds,) = re.findall(r"kind!~\"([^\"]+)\"", rule["expr"])
    assert set(kinds.split("|")) == INFO


def test_every_rule_says_what_to_do_and_one_watches_the_dead_letters() -> None:
    assert all(rule["annotations"]["summary"] and rule["annotations"]["action"] for rule in RULES)
    assert any("alpha_panda_dlq_depth" in rule["expr"] for rule in RULES)


def test_prometheus_loads_the_rules_and_grafana_finds_its_dashboards() -> None:
    docker = PROJECT_ROOT / "docker"
    config = yaml.safe_load((docker / "prometheus" / "prometheus.yml").read_text())
    assert config["rule_files"] == [f"/etc/prometheus/{RULES_FILE.name}"]
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["api:API_PORT"]
    provisioning = docker / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "alpha-panda.yml").read_text())["providers"]
    compose = yaml.safe_load((docker / "compose.yaml").read_text())["services"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["grafana"]["volumes"]
    boards = [json.loads(path.read_text()) for path in sorted((docker / "grafana" / "dashboards").glob("*.json"))]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    used = {panel["datasource"]["uid"] for board in boards for panel in board["panels"]}
    assert used == {source["uid"]}
