"""Who looks never delays who trades: the API steps back where the machine is busy, on either stack."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from core.config import Settings
from core.services import services
from core.trading.types import Broker, KiteTarget
from docker.prerequisites import ROOT

WEIGHTS = {0: None, 5: 335}
"""What the Linux scheduler gives a niceness (kernel/sched/core.c), as compose's cpu_shares; 1024 where none is said."""


def test_only_the_api_steps_back_and_as_far_in_containers() -> None:
    everything = Settings.model_construct(active_brokers=tuple(Broker), kite_target=KiteTarget.LOCAL)
    rows = {row.name: row.nice for row in services(everything)}
    assert {name for name, nice in rows.items() if nice} == {"api"}
    containers = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    assert {name: containers[name].get("cpu_shares") for name in rows} == {n: WEIGHTS[nice] for n, nice in rows.items()}


@pytest.mark.parametrize(("before", "asked", "then"), [(0, 10, 10), (0, 0, 0), (15, 10, 15)])
def test_a_process_gives_way_and_never_takes_back(before: int, asked: int, then: int) -> None:
    code = (
        "import os; from core.service import step_back; here = os.getpriority(os.PRIO_PROCESS, 0); "
        f"before = max(here, {before}); os.setpriority(os.PRIO_PROCESS, 0, before); step_back({asked}); "
        f"assert os.getpriority(os.PRIO_PROCESS, 0) == max(before, {then}), os.getpriority(os.PRIO_PROCESS, 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
