"""What docker/prometheus and docker/grafana ask of our metrics: names of series, and labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import yaml

from core.config import PROJECT_ROOT

RULES_FILE = PROJECT_ROOT / "docker" / "prometheus" / "alert-rules.yml"
DASHBOARDS = PROJECT_ROOT / "docker" / "grafana" / "dashboards"


@dataclass(frozen=True)
class Asked:
    """One expression with where it stands."""

    where: str
    expr: str
    names: frozenset[str]
    labels: frozenset[str]


def _read(where: str, expr: str, words: str) -> Asked:
    grouped = {each.strip() for part in re.findall(r"by \(([^)]*)\)", expr) for each in part.split(",")}
    picked = {name for part in re.findall(r"\{([^}]*)\}", expr) for name in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", part)}
    told = set(re.findall(r"\$labels\.(\w+)", words)) | set(re.findall(r"\{\{\s*(\w+)\s*\}\}", words))
    return Asked(where, expr, frozenset(re.findall(r"\balpha_panda_\w+", expr)), frozenset(grouped | picked | told))


def asked() -> list[Asked]:
    """Every expression of the rules and the dashboards."""
    found = []
    for group in yaml.safe_load(RULES_FILE.read_text())["groups"]:
        for rule in group["rules"]:
            found.append(_read(f"rule {rule['alert']}", rule["expr"], str(rule["annotations"])))
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                where = f"{path.stem}: {panel['title']} {target['refId']}"
                found.append(_read(where, target["expr"], target["legendFormat"]))
    return found
