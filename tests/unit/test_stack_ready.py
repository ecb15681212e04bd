"""A part of the stack that is not there stops the start: one message that names it, within its bound."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from cli.setup import ensure_env
from core.config import load_settings
from docker.native import ready
from docker.native.stack import INFRA


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_part_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    ports = ("KAFKA_PORT", "POSTGRES_PORT", "REDIS_PORT", "TEMPORAL_PORT")
    ensure_env(tmp_path, {name: str(free_port()) for name in ports})
    answered: list[str] = []
    with pytest.raises(ready.NotReady, match="does not answer after 0 s") as stopped:
        await asyncio.wait_for(ready.wait(load_settings(), answered.append, timeout=0.1), 60)
    assert stopped.value.part in INFRA
    assert stopped.value.part in str(stopped.value)
    assert answered == []
