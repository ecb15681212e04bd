"""The tests' own sandbox process leaves nothing behind when it does not come up."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.integration import sandbox_support
from tests.integration.sandbox_support import SandboxProcess


def mine(folder: Path) -> list[psutil.Process]:
    return [each for each in psutil.process_iter(["cmdline"]) if str(folder) in (each.info["cmdline"] or ())]


def test_a_sandbox_that_does_not_answer_in_time_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[psutil.Process] = []

    def never(look: object, what: str, seconds: float) -> None:
        seen.extend(mine(tmp_path))
        raise AssertionError(f"waited {seconds} s in vain for {what}")

    monkeypatch.setattr(sandbox_support, "wait_for", never)
    with pytest.raises(AssertionError, match="in vain"):
        SandboxProcess(tmp_path)
    assert seen
    assert mine(tmp_path) == []
