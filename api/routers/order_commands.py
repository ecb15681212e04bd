"""Acting on orders: cancel, modify, resolve, and an order of one's own. Accepted is not done: the broker's book says what became of it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query
from pydantic import AwareDatetime, Field, model_validator

from api.acting import Asking, LinksDep, asks
from api.auth import needs
from api.models import Answer
from api.problems import acting, guarded
from api.requests import Asked
from control import orders as control
from control.orders import Commanded
from core.events.payloads import Denial
from core.order_commands import outcome
from core.people.roles import Role, Scope
from core.storage.command_journal import dossier
from core.storage.commands import CommandRecord, read_command
from core.trading.commands import Changes, CommandKind, CommandOutcome, CommandState, Resolution
from core.trading.types import Broker, Intent, OrderType, Product, Side, Validity

router = APIRouter(prefix="/orders", tags=["orders"])
Trading = Annotated[Asking, asks(Role.TRADER, Scope.ORDERS)]

Reason = Annotated[str, Field(min_length=1, max_length=500, examples=["moved against us"])]
Rupees = Annotated[Decimal, Field(gt=0, lt=10**9, max_digits=15, examples=["1500.00"])]
Units = Annotated[int, Field(gt=0, lt=10**8, examples=[50])]
Wait = Annotated[
    float, Query(ge=0, le=30, description="Seconds to wait for an outcome; it goes on after that all the same.")
]


class Cancel(Asked):
    reason: Reason


class Modify(Asked):
    reason: Reason
    price: Rupees | None = None
    trigger_price: Rupees | None = None
    quantity: Units | None = Field(
        default=None, description="Less than now, where the broker says what it means (paper)."
    )


class Resolve(Asked):
    """adopt: it is `broker_order_id`. never-placed: nothing (more) filled. book-fill: it filled as you say."""

    reason: Reason
    resolution: Resolution
    order_id: UUID = Field(description="The order's id once more: typed back, so that no other is decided.")
    broker_order_id: str | None = Field(default=None, min_length=1, max_length=64)
    quantity: Units | None = None
    price: Rupees | None = None
    trade_id: str | None = Field(default=None, min_length=1, max_length=64)
    filled_at: AwareDatetime | None = None
    more: bool = Field(default=False, description="book-fill: another fill follows; else the rest never filled.")

    @model_validator(mode="after")
    def _complete(self) -> Resolve:
        if self.resolution is Resolution.ADOPT and not self.broker_order_id:
            raise ValueError("adopt needs broker_order_id, as Kite shows it")
        needed = ("quantity", "price", "trade_id", "filled_at")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.resolution is Resolution.BOOK_FILL and missing:
            raise ValueError(f"book-fill needs {', '.join(missing)}")
        return self

    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {"resolution": self.resolution.value}
        if self.broker_order_id:
            found["broker_order_id"] = self.broker_order_id
        if self.resolution is not Resolution.BOOK_FILL:
            return found
        assert self.filled_at is not None
        numbers = Changes(price=self.price, quantity=self.quantity).parameters()
        return found | numbers | {"trade_id": self.trade_id, "filled_at": self.filled_at.isoformat(), "more": self.more}


class Command(Answer):
    """A journalled command. `outcome` is empty until it is finished; `evidence` says what is known so far."""

    request_id: UUID
    order_id: UUID
    broker: Broker
    kind: CommandKind
    state: CommandState
    outcome: CommandOutcome | None
    evidence: str | None
    parameters: dict[str, Any]
    requested_by: str
    reason: str
    created_at: datetime
    finished_at: datetime | None
    note: str | None = Field(description="Why the order's workflow was not told yet, if so.")

    @staticmethod
    def of(broker: Broker, record: CommandRecord, note: str | None = None) -> Command:
        named = {name: getattr(record, name) for name in Command.model_fields if hasattr(record, name)}
        return Command(**named, broker=broker, note=note)


class Ticket(Asked):
    """An order of your own. It belongs to a strategy, whose limits, opt-ins and positions hold for it."""

    broker: Broker
    strategy: str = Field(min_length=1, max_length=64, examples=["momentum-demo"])
    instrument: str = Field(min_length=3, max_length=64, examples=["NSE:INFY"])
    side: Side
    quantity: Units
    intent: Intent = Field(
        description="ENTRY opens or adds, and expires after 60 s. EXIT goes towards zero, never past it."
    )
    order_type: OrderType = OrderType.MARKET
    product: Product = Product.MIS
    validity: Literal[Validity.DAY, Validity.IOC] = Validity.DAY
    price: Rupees | None = None
    trigger_price: Rupees | None = None
    reason: Reason


class Placed(Answer):
    """What risk made of it: an order, or every code it failed. Neither: no decision yet, ask `/signals/{signal_id}`."""

    signal_id: UUID
    accepted: bool | None
    order_id: UUID | None
    denials: list[Denial]
    decided_at: datetime | None


@router.post("", status_code=202, summary="Place an order of your own", responses=acting(404))
async def place(ticket: Ticket, asking: Trading, wait: Wait = 3.0) -> Placed:
    """The same way as a strategy's: signal, risk, workflow; `source` is `manual`. Denied is an answer, not an error."""
    wanted = control.Ticket(
        strategy_id=ticket.strategy,
        **{name: getattr(ticket, name) for name in control.Ticket.__dataclass_fields__ if name != "strategy_id"},
    )
    found = await control.place(asking.links, await asking.same(ticket.reason), wanted, within_s=wait)
    accepted = None if found.decided_at is None else found.order_id is not None
    denials = [Denial.model_validate(row) for row in found.denials]
    return Placed(
        signal_id=found.signal_id,
        accepted=accepted,
        order_id=found.order_id,
        denials=denials,
        decided_at=found.decided_at,
    )


@router.post("/{order_id}/cancel", status_code=202, summary="Cancel an order", responses=acting(404))
async def cancel(order_id: UUID, asked: Cancel, asking: Trading, wait: Wait = 0.0) -> Command:
    """Holds from now on: it stops an order not yet sent, and fires when a lost one is found. A fill that came first stands."""
    return await _command(asking, order_id, CommandKind.CANCEL, {}, asked.reason, wait)


@router.post("/{order_id}/modify", status_code=202, summary="Change a working order", responses=acting(404))
async def modify(order_id: UUID, asked: Modify, asking: Trading, wait: Wait = 0.0) -> Command:
    """Sent once, then read back from the broker's book. 25 times an order at most."""
    changes = Changes(asked.price, asked.trigger_price, asked.quantity)
    check = control.modifiable(changes)
    return await _command(asking, order_id, CommandKind.MODIFY, changes.parameters(), asked.reason, wait, check)


@router.post("/{order_id}/resolve", status_code=202, summary="Decide an UNRESOLVED order", responses=acting(404))
async def resolve(order_id: UUID, asked: Resolve, asking: Trading, wait: Wait = 0.0) -> Command:
    """Read `/evidence` first. The book, where it can be read, has the last word."""
    if asked.order_id != order_id:
        raise HTTPException(422, "order_id: is not the order of the address: nothing was decided")
    parameters = asked.parameters()
    return await _command(asking, order_id, CommandKind.RESOLVE, parameters, asked.reason, wait, control.undecided())


async def _command(
    asking: Asking,
    order_id: UUID,
    kind: CommandKind,
    parameters: dict[str, Any],
    reason: str,
    wait: float,
    check: control.Check | None = None,
) -> Command:
    links = asking.links
    broker = await control.whose(links, order_id)
    done: Commanded = await control.command(links, asking.act(reason), broker, order_id, kind, parameters, check)
    record = await outcome(links.journal(broker), done.record.request_id, within_s=wait) if wait else done.record
    return Command.of(broker, record or done.record, done.note)


class Evidence(Answer):
    """What is known of an order from the journal: its row, every send with the broker's answer, the books seen meanwhile."""

    broker: Broker
    order: dict[str, Any]
    sends: list[dict[str, Any]]
    books: list[dict[str, Any]]


@router.get(
    "/{order_id}/evidence",
    summary="What an UNRESOLVED order rests on",
    dependencies=[needs(Role.VIEWER)],
    responses=guarded(404),
)
async def evidence(order_id: UUID, links: LinksDep) -> Evidence:
    """From the journal, not from the log: for the person who must decide."""
    broker = await control.whose(links, order_id)
    found = await dossier(links.journal(broker), order_id)
    return Evidence(broker=broker, order=found.order, sends=list(found.sends), books=list(found.books))


@router.get(
    "/{order_id}/commands/{request_id}",
    summary="What became of a command",
    dependencies=[needs(Role.VIEWER)],
    responses=guarded(404),
)
async def command(order_id: UUID, request_id: UUID, links: LinksDep, wait: Wait = 0.0) -> Command:
    """As it stands, or its outcome where that comes within `wait`."""
    broker = await control.whose(links, order_id)
    engine = links.journal(broker)
    found = await (outcome(engine, request_id, within_s=wait) if wait else read_command(engine, request_id))
    if found is None or found.order_id != order_id:
        raise HTTPException(404, f"Order {order_id} has no command {request_id}.")
    return Command.of(broker, found)
