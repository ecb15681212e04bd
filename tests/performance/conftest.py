"""What several benches trade on: a market that moves. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal

import pytest

from tests.e2e.trading import Market
from tests.fixtures.system import System


@pytest.fixture(scope="module")
def live(system: System, request: pytest.FixtureRequest) -> Iterator[System]:
    """The module's system with four ticks a second on each of its INSTRUMENTS."""
    with ExitStack() as markets:
        for name in request.module.INSTRUMENTS:
            markets.enter_context(Market(system, name, Decimal(1500)))
        yield system
