"""A look takes the book for what it is: that of one account on one target. What another one lists under the same id says nothing."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.broker_calls import BrokerCalls
from core.brokers.pacer import Pacer
from core.brokers.zerodha import LIMITS
from core.order_work import LookInput
from core.storage.claims import LeaseProof
from core.trading.calendar import calendar_for
from core.trading.durations import OrderDurations


class Asked(Exception):
    """The broker's book was read."""


class Book:
    async def orders(self, broker_order_ids: list[str], *, not_before: float) -> dict[str, Any]:
        raise Asked


@pytest.mark.parametrize(
    ("account", "target", "answer"),
    [
        ("AB1234", "local", ApplicationError),
        ("XY9999", "production", ApplicationError),
        ("AB1234", "production", Asked),
    ],
    ids=["another target", "another account", "its own"],
)
async def test_a_book_of_another_target_or_account_is_not_even_read(
    account: str, target: str, answer: type[Exception]
) -> None:
    none: Any = None
    book: Any = Book()
    proof = LeaseProof("lease", "me", 1, "AB1234", "production")
    at = BrokerCalls(none, none, book, Pacer(LIMITS), proof, calendar_for(simulated=True))
    asked = LookInput(
        order_id=uuid4(), send_no=1, broker_order_id="B1", durations=OrderDurations(), account=account, target=target
    )
    with pytest.raises(answer) as found:
        await ActivityEnvironment().run(at.look_at_book, asked)
    if isinstance(found.value, ApplicationError):
        assert found.value.type == "WRONG_ACCOUNT"
