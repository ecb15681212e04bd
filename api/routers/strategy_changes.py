"""Changing strategies and limits: every change is checked as the strategy runner would, versioned, announced on the log and audited."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from pydantic import Field

from api.acting import Asking, LinksDep, asks
from api.auth import needs
from api.models import Answer
from api.problems import acting, guarded
from api.requests import Asked
from control import limits as control_limits
from control import strategies as control
from control.strategies import Changed, Edits
from core.people.roles import Role, Scope
from core.storage.strategies import StrategyConfig
from core.trading.risk.limits import MODELS
from core.trading.risk.limits import Scope as LimitScope
from core.trading.types import Broker, KiteTarget, Product
from strategies import registry

router = APIRouter(tags=["strategies"])
Trading = Annotated[Asking, asks(Role.TRADER, Scope.STRATEGIES)]
Admin = Annotated[Asking, asks(Role.ADMIN, Scope.STRATEGIES)]
Limiting = Annotated[Asking, asks(Role.ADMIN, Scope.RISK)]

Name = Annotated[str, Path(min_length=1, max_length=64, examples=["momentum-demo"])]
Why = Annotated[str, Field(max_length=500)]
Parameters = Annotated[dict[str, Any], Field(max_length=100, examples=[{"fast": 9, "slow": 21, "quantity": 50}])]
InstrumentKey = Annotated[str, Field(min_length=3, max_length=64, examples=["NSE:INFY"])]
Instruments = Annotated[list[InstrumentKey], Field(min_length=1, max_length=500)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False, examples=[5])]
Capital = Annotated[Decimal, Field(gt=0, lt=10**12, max_digits=16, examples=["250000"])]


class Because(Asked):
    reason: Why = ""


class Change(Because):
    """What to change; what is left out stays. `parameters` replaces them all, `set` and `unset` some of them."""

    parameters: Parameters | None = None
    set: Parameters | None = None
    unset: list[str] = Field(default=[], max_length=100)
    instruments: Instruments | None = None
    product: Product | None = None
    age_limit_s: Seconds | None = Field(default=None, description="Seconds after which an entry is too old.")
    capital: Capital | None = None


class New(Because):
    """A new strategy. It trades on paper; opt it in afterwards."""

    strategy_id: str = Field(min_length=2, max_length=32, examples=["momentum-two"])
    class_name: str = Field(min_length=1, max_length=64, examples=["Momentum"])
    parameters: Parameters = Field(default_factory=dict)
    instruments: Instruments
    product: Product = Product.MIS
    age_limit_s: Seconds = 5.0
    capital: Capital = Decimal(100_000)
    active: bool = False


class OptIn(Because):
    broker: Broker = Broker.ZERODHA
    target: KiteTarget = Field(description="Where its orders may go; it means nothing on any other target.")
    typed: str = Field(max_length=64, description="The target once more, as the person typed it.", examples=["local"])


class OptOut(Because):
    broker: Broker = Broker.ZERODHA


class Row(Answer):
    """A strategy's row as stored. `changed` False: it was so already. `announced` False: the log is away, it is told later."""

    strategy_id: str
    changed: bool
    announced: bool
    version: int | None
    row: dict[str, Any] | None

    @staticmethod
    def of(strategy_id: str, done: Changed) -> Row:
        row = done.row
        return Row(
            strategy_id=strategy_id,
            changed=row is not None,
            announced=done.announced,
            version=row.version if row else None,
            row=row.as_row() if row else None,
        )


class StrategyClass(Answer):
    """A class of strategies with its parameters as JSON schema: a form can be made of it."""

    class_name: str
    summary: str
    parameters: dict[str, Any] = Field(description="JSON schema of its parameters.")


class StrategyClasses(Answer):
    classes: list[StrategyClass]


@router.get(
    "/strategy-classes",
    summary="What strategies can be made of",
    dependencies=[needs(Role.VIEWER)],
    responses=guarded(),
)
async def classes() -> StrategyClasses:
    """Every class there is, with the schema of its parameters."""
    rows = [
        StrategyClass(
            class_name=name,
            summary=(kind.__doc__ or "").strip().split("\n")[0],
            parameters=kind.parameters_model.model_json_schema(),
        )
        for name, kind in sorted(registry.known().items())
    ]
    return StrategyClasses(classes=rows)


@router.post("/strategies", status_code=201, summary="A new strategy", responses=acting())
async def create(asked: New, asking: Trading) -> Row:
    """Version 1, checked like any change; switched off unless you say otherwise."""
    row = StrategyConfig(
        strategy_id=asked.strategy_id,
        class_name=asked.class_name,
        parameters=asked.parameters,
        instruments=tuple(asked.instruments),
        active=asked.active,
        product=asked.product.value,
        age_limit_s=asked.age_limit_s,
        capital=asked.capital,
    )
    return await asking.once(
        Row, asked.reason, lambda act: _row(asked.strategy_id, control.create(asking.links, act, row))
    )


@router.patch("/strategies/{name}", summary="Change a strategy", responses=acting(404))
async def change(name: Name, asked: Change, asking: Trading) -> Row:
    """Takes effect from the next tick, without a restart. A bad field is named with what it may be, and nothing is changed."""
    edits = Edits(
        parameters=asked.parameters,
        set_parameters=asked.set,
        unset=frozenset(asked.unset),
        instruments=None if asked.instruments is None else tuple(asked.instruments),
        product=asked.product.value if asked.product else None,
        age_limit_s=asked.age_limit_s,
        capital=asked.capital,
    )
    return await asking.once(Row, asked.reason, lambda act: _row(name, control.change(asking.links, act, name, edits)))


@router.post("/strategies/{name}/activate", summary="Switch a strategy on", responses=acting(404))
async def activate(name: Name, asked: Because, asking: Trading) -> Row:
    """It trades on paper, and where it is opted in."""
    return await asking.once(Row, asked.reason, lambda act: _row(name, control.activate(asking.links, act, name)))


@router.post("/strategies/{name}/pause", summary="Switch a strategy off", responses=acting(404))
async def pause(name: Name, asked: Because, asking: Trading) -> Row:
    """No signal from the next tick. Its positions stay held, its open orders go on. Checks nothing: it always works."""
    return await asking.once(Row, asked.reason, lambda act: _row(name, control.pause(asking.links, act, name)))


@router.post("/strategies/{name}/opt-in", summary="Let a strategy trade real money", responses=acting(404))
async def opt_in(name: Name, asked: OptIn, asking: Admin) -> Row:
    """Beside paper, on this target and no other. Only an admin, and the target is typed back."""
    if asked.typed != asked.target.value:
        raise HTTPException(422, f"typed: is not {asked.target.value}; nothing was changed")
    return await asking.once(
        Row, asked.reason, lambda act: _row(name, control.opt_in(asking.links, act, name, asked.broker, asked.target))
    )


@router.post("/strategies/{name}/opt-out", summary="Take the opt-in away", responses=acting(404))
async def opt_out(name: Name, asked: OptOut, asking: Trading) -> Row:
    """No new entry there. Its positions stay held, its open orders go on."""
    return await asking.once(
        Row, asked.reason, lambda act: _row(name, control.opt_out(asking.links, act, name, asked.broker))
    )


async def _row(strategy_id: str, doing: Any) -> Row:
    return Row.of(strategy_id, await doing)


# limits -------------------------------------------------------------------------------------------------------------------


class Limits(Answer):
    """`limits` is what was set, `effective` with the defaults of the rest. Version 0: nothing was set yet.

    `announced` False: the log is away and is told later; risk reads what was set all the same.
    """

    scope: LimitScope
    name: str
    limits: dict[str, Any]
    effective: dict[str, Any]
    version: int
    announced: bool = True
    fields: dict[str, Any] = Field(description="JSON schema of the limits, with units.")

    @staticmethod
    def of(found: control_limits.Limits) -> Limits:
        schema = MODELS[found.scope].model_json_schema()
        return Limits(
            scope=found.scope,
            name=found.name,
            limits=found.limits,
            effective=found.effective,
            version=found.version,
            announced=found.announced,
            fields=schema,
        )


class SetLimits(Because):
    limits: dict[str, Any] = Field(max_length=50, examples=[{"max_position": 500, "max_day_loss": "5000"}])


@router.get(
    "/limits/{scope}/{name}",
    summary="Limits of a strategy or an account",
    dependencies=[needs(Role.VIEWER)],
    responses=guarded(),
)
async def limits(scope: LimitScope, name: Name, links: LinksDep) -> Limits:
    """What was set, and what holds with the defaults."""
    return Limits.of(await control_limits.read(links, scope, name))


@router.put("/limits/{scope}/{name}", summary="Set limits", responses=acting())
async def set_limits(scope: LimitScope, name: Name, asked: SetLimits, asking: Limiting) -> Limits:
    """What is left out takes its default. Row, version and event are one; risk takes them up at the event, without a restart."""

    async def work(act: Any) -> Limits:
        return Limits.of(await control_limits.change(asking.links, act, scope, name, asked.limits))

    return await asking.once(Limits, asked.reason, work)
