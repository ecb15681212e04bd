"""Fixtures for all tests, split by concern in tests/fixtures. Tests marked `stack` get the test stack by themselves."""

from __future__ import annotations

import os
import sys

import pytest

from tests.fixtures.home import isolate, leave_nothing

isolate()

pytest_plugins = ["tests.fixtures.stack"]

_exit_status = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `stack` use that fixture without naming it; benchmarks and freezes run only when asked for (`-m bench`)."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("stack") and "stack" not in item.fixturenames:
            item.fixturenames.insert(0, "stack")
    unasked = [name for name in ("bench", "freeze") if name not in str(config.option.markexpr)]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unasked)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(exitstatus: int) -> None:
    global _exit_status
    _exit_status = int(exitstatus)
    if exitstatus == pytest.ExitCode.OK:
        leave_nothing()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End at once: the Temporal SDK's runtime may crash the interpreter's own shutdown, after all tests have passed."""
    if "temporalio" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status)
