"""Temporal server and UI of the native stack: one program, SQLite on disk, loopback only."""

from __future__ import annotations

from core.config import Settings
from docker.native.layout import LOOPBACK, VENV_BIN, Layout, Program

DYNAMIC = {
    # 20 loads a second a shard by default, and this server has one shard: every workflow task would wait 50 ms.
    "history.transferProcessorMaxPollRPS": "1000",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
}
PRAGMAS = {"journal_mode": "wal", "synchronous": "normal"}


def prepare(settings: Settings, layout: Layout) -> Program:
    data = layout.data / "temporal"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [str(VENV_BIN / "temporal"), "server", "start-dev", "--ip", LOOPBACK, "--ui-ip", LOOPBACK]
    command += ["--port", str(settings.temporal_port), "--ui-port", str(settings.temporal_ui_port)]
    command += ["--db-filename", str(data / "temporal.db"), "--log-level", "warn"]
    for name, value in PRAGMAS.items():
        command += ["--sqlite-pragma", f"{name}={value}"]
    for name, value in DYNAMIC.items():
        command += ["--dynamic-config-value", f"{name}={value}"]
    return Program(
        name="temporal",
        command=tuple(command),
        ports=(settings.temporal_port, settings.temporal_ui_port),
        env={"GOGC": "400"},  # a quarter less CPU a workflow for some memory
        stop_wait=20,
        autostart=True,
    )
