"""What a fault rule says: which kind, where it applies, when it fires, with which parameters. Models and parser, pure.

A rule that could never fire, or names a parameter its kind does not read, is refused: a fault that silently does nothing would
make a test lie.
"""

from __future__ import annotations

import json
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.trading.types import Product, Side
from sandbox.errors import SandboxStartError
from sandbox.fault_kinds import CATALOGUE, STATUS_OF, Family, FaultKind, KindSpec

PARAMETERS = (
    "delay_s", "delay_max_s", "accepted", "status", "error_type", "message", "quantity", "price", "side", "product",
    "user_id", "copies", "skew_s",
)  # fmt: skip
ORDER_ROUTES = ("order.place", "order.modify", "order.cancel", "order.info", "order.trades")
"""Routes whose requests name an order."""

_OWN_MOMENT = frozenset({FaultKind.STUCK_RECEIVED, FaultKind.FILL_RACES_CANCEL})
Pattern = Annotated[str, Field(min_length=1, max_length=100)]
"""Exact, or with * and ? (`order.*`, `NSE:PANDA*`)."""


class Channel(StrEnum):
    """How an order update travels."""

    POSTBACK = "postback"
    FRAME = "frame"
    BOTH = "both"


class FaultRule(BaseModel):
    """One rule. Times are seconds, money rupees, quantities units; what is None is not asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:-]{1,60}$")
    """Given by the sandbox if left out; a rule of the same id replaces the old one."""

    kind: FaultKind

    # Where: every condition that is given must hold.
    route: Pattern | None = None
    """A route by its name in /admin/status `requests` (`order.place`, `orders`, `market.quote.ltp`); else the kind's own."""

    tag: Pattern | None = None
    symbol: Pattern | None = None
    """`NSE:INFY`"""

    order_id: Pattern | None = None
    channel: Channel = Channel.BOTH

    # When: of the matches, those.
    rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the matches, drawn from the seed: the same matches in the same order fire alike."""

    nth: int | None = Field(default=None, ge=1)
    """Only the n-th match."""

    count: int | None = Field(default=None, ge=1)
    """At most so many firings."""

    after_s: float = Field(default=0.0, ge=0, le=86_400)
    """The rule sleeps so long after it was given."""

    for_s: float | None = Field(default=None, gt=0, le=86_400)
    """… and is awake for so long."""

    now: bool = False
    """Order kinds: act at once on the working orders that match (`foreign_order`, `rms_square_off`: on `symbol`), then never."""

    seed: int | None = None

    # Parameters: those of the kind.
    delay_s: float | None = Field(default=None, ge=0, le=3_600)
    delay_max_s: float | None = Field(default=None, ge=0, le=3_600)
    """With it, the delay is drawn between `delay_s` and this."""

    accepted: bool | None = None
    """Whether the request was carried out before the bad answer."""

    status: int | None = Field(default=None, ge=200, le=599)
    error_type: str | None = None
    message: str | None = Field(default=None, max_length=500)
    quantity: int | None = None
    price: Decimal | None = Field(default=None, gt=0)
    side: Side | None = None
    product: Product | None = None
    user_id: str | None = None
    copies: int | None = Field(default=None, ge=1, le=20)
    skew_s: float | None = None

    @property
    def spec(self) -> KindSpec:
        return CATALOGUE[self.kind]

    @property
    def family(self) -> Family:
        return self.spec.family

    @property
    def routes(self) -> str | None:
        return self.route or self.spec.route

    @property
    def names_order(self) -> bool:
        """True when it looks at one order's tag, symbol or id."""
        return any(each is not None for each in (self.tag, self.symbol, self.order_id))

    def value(self, parameter: str) -> Any:
        """The rule's own parameter, else the kind's default."""
        own = getattr(self, parameter)
        return self.spec.defaults.get(parameter) if own is None else own

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        unread = [name for name in PARAMETERS if getattr(self, name) is not None and name not in self.spec.defaults]
        if unread:
            takes = ", ".join(self.spec.defaults) or "no parameters"
            raise ValueError(f"`{self.kind}` does not read {', '.join(unread)}; it takes {takes}")
        self._fits_its_place()
        self._fits_its_moment()
        if self.error_type is not None and self.error_type not in STATUS_OF:
            raise ValueError(f"`error_type` is one of {', '.join(STATUS_OF)}")
        if self.quantity is not None and self.kind is not FaultKind.FOREIGN_POSITION and self.quantity < 1:
            raise ValueError("`quantity` is at least 1")
        if self.delay_max_s is not None and self.delay_max_s < float(self.value("delay_s")):
            raise ValueError("`delay_max_s` is less than `delay_s`")
        return self

    def _fits_its_place(self) -> None:
        if self.family in {Family.ORDER, Family.ACCOUNT, Family.UPDATE} and self.route is not None:
            raise ValueError(f"`{self.kind}` looks at no route: leave `route` out")
        if self.channel is not Channel.BOTH and self.family is not Family.UPDATE:
            raise ValueError(f"`channel` is for updates, not for `{self.kind}`")
        if self.family is Family.ACCOUNT and (self.tag or self.order_id):
            raise ValueError(f"`{self.kind}` looks at no order: leave `tag` and `order_id` out")
        by_order = self.routes is None or any(fits(self.routes, route) for route in ORDER_ROUTES)
        if self.names_order and not by_order and self.kind is not FaultKind.STALE_BOOK:
            raise ValueError(f"requests of `{self.routes}` name no order: leave `tag`, `symbol` and `order_id` out")
        alone = self.kind in {FaultKind.FOREIGN_ORDER, FaultKind.RMS_SQUARE_OFF} and self.now
        if (alone or self.kind is FaultKind.FOREIGN_POSITION) and (not self.symbol or "*" in self.symbol):
            raise ValueError(f"`{self.kind}` needs one `symbol`, such as NSE:INFY")

    def _fits_its_moment(self) -> None:
        narrowed = self.rate < 1 or self.nth is not None
        if self.now and (self.family is not Family.ORDER or self.kind in _OWN_MOMENT):
            raise ValueError(f"`{self.kind}` has its own moment: leave `now` out")
        if self.now and (self.after_s or self.for_s or narrowed):
            raise ValueError("`now` goes with none of `after_s`, `for_s`, `rate` and `nth`")
        if self.family is Family.ACCOUNT and (narrowed or self.for_s or self.count):
            raise ValueError(f"`{self.kind}` fires once, after `after_s`: leave `rate`, `nth`, `for_s` and `count` out")


class Scenario(BaseModel):
    """A list of rules and the seed of those that name none. The shape of a scenario file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int | None = None
    rules: tuple[FaultRule, ...]

    def seeded(self) -> tuple[FaultRule, ...]:
        """The rules, each with its seed where the scenario has one."""
        if self.seed is None:
            return self.rules
        return tuple(
            rule if rule.seed is not None else rule.model_copy(update={"seed": self.seed}) for rule in self.rules
        )


def parse(value: Any) -> Scenario:
    """One rule, a list of rules, or a scenario, as JSON or YAML gives them.

    Raises:
        ValueError: the first thing that is wrong, with its place.
    """
    if isinstance(value, list):
        value = {"rules": value}
    elif isinstance(value, dict) and "rules" not in value:
        value = {"rules": [value]}
    try:
        return Scenario.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def load(path: Path) -> tuple[FaultRule, ...]:
    """The rules of a scenario file (YAML or JSON); those without an id become `scenario-1`, `scenario-2`, …

    Raises:
        SandboxStartError: there is no such file, or it is no scenario.
    """
    try:
        text = path.read_text()
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        rules = parse(value).seeded()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SandboxStartError(f"the scenario {path} cannot be used: {error}") from None
    return tuple(
        rule if rule.id else rule.model_copy(update={"id": f"scenario-{n}"}) for n, rule in enumerate(rules, 1)
    )


def fits(pattern: str | None, value: str | None) -> bool:
    """True when nothing is asked for, or the value is what the pattern says."""
    return pattern is None or (value is not None and fnmatchcase(value, pattern))
