"""Strategies: what each is told to do, switched on and off, changed with a form made from its own parameters, opted in to real money by
an admin who types the target. Checks nothing itself: what is refused is refused by the strategy's own model.
"""

from __future__ import annotations

from typing import Any

from nicegui.element import Element

from api.models import Strategy
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Column, Row, Table, cell, chip
from api.pages.schema_form import fields_of, values_of
from api.pages.today import STATES
from api.routers import strategy_changes
from api.routers.strategy_changes import Because, Change, New, OptIn, OptOut
from core.errors import CommandRefused
from core.trading.types import Broker, Product
from strategies import registry

_INSTANCES = (
    Column("Broker"),
    Column("State"),
    Column("Why"),
    Column("Last bar", "num"),
    Column("Signals", "num"),
    Column("Last signal", "num"),
)


class _Card:
    """One strategy's section, filled anew when its row or what runs of it changes."""

    def __init__(self, desk: Desk, strategy: Strategy) -> None:
        self.desk, self.strategy = desk, strategy
        with Element("section").classes("card") as self.box:
            self.box.props["id"] = strategy.strategy_id
            with Element("div").classes("choices"):
                parts.text(strategy.strategy_id, "h2")
                self.chip = parts.text("", "span", "chip")
            self.line = parts.text("", "p", "quiet")
            self.values = parts.text("", "p")
            self.table = Table(f"Instances of {strategy.strategy_id}", _INSTANCES, empty="No instance.")
            with Element("div").classes("choices"):
                self._buttons()
        self.show(strategy)

    def _buttons(self) -> None:
        desk = self.desk
        self.pause = parts.button("Pause …", lambda: _ask_pause(desk, self.strategy), "small hidden")
        self.activate = parts.button("Activate …", lambda: _ask_activate(desk, self.strategy), "small primary hidden")
        self.change = parts.button("Change …", lambda: _ask_change(desk, self.strategy), "small hidden")
        self.opt_in = parts.button("Opt in …", lambda: _ask_opt_in(desk, self.strategy), "small hidden")
        self.opt_out = parts.button("Opt out …", lambda: _ask_opt_out(desk, self.strategy), "small hidden")
        said = {"Pause": self.pause, "Activate": self.activate, "Change": self.change}
        for does, button in (said | {"Opt in": self.opt_in, "Opt out": self.opt_out}).items():
            button.props["aria-label"] = f"{does} {self.strategy.strategy_id}"

    def show(self, strategy: Strategy) -> None:
        self.strategy = strategy
        desk, changes = self.desk, strategy_changes
        parts.put(
            self.chip, "active" if strategy.active else "paused", f"chip {'good' if strategy.active else 'plain'}"
        )
        capital = formats.rupees(strategy.capital)
        words = f"{strategy.class_name} on {', '.join(strategy.instruments)} · {strategy.product} · capital {capital}"
        age = f"entries good for {formats.span(strategy.age_limit_s)}"
        parts.put(self.line, f"{words} · {age} · version {strategy.version}")
        parts.put(self.values, " · ".join(f"{name} {value}" for name, value in strategy.parameters.items()))
        self.table.show([_instance(one) for one in strategy.instances])
        parts.offer(self.pause, strategy.active and desk.may(changes.pause))
        parts.offer(self.activate, not strategy.active and desk.may(changes.activate))
        parts.offer(self.change, desk.may(changes.change))
        others = [broker for broker in desk.room.settings.active_brokers if broker is not Broker.PAPER]
        parts.offer(self.opt_in, bool(set(others) - set(strategy.opt_ins)) and desk.may(changes.opt_in))
        parts.offer(self.opt_out, bool(strategy.opt_ins) and desk.may(changes.opt_out))


def _instance(one: Any) -> Row:
    runtime = one.runtime
    return Row(
        one.instance,
        (
            cell(one.broker.value, more="" if one.target == one.broker.value else one.target),
            chip(one.state, STATES.get(one.state, "plain")),
            cell(one.reason or runtime.get("reason") or formats.NONE),
            parts.when(parts.moment(runtime.get("last_bar_end"))),
            parts.count(int(runtime.get("signals") or 0)),
            parts.when(parts.moment(runtime.get("last_signal_at"))),
        ),
    )


async def build(desk: Desk) -> None:
    if desk.may(strategy_changes.create):
        with Element("div").classes("choices"):
            parts.button("New strategy …", lambda: _ask_class(desk), "small")
    away = parts.text("", "p", "wrong")
    empty = parts.text("", "p", "empty")
    box = Element("div").classes("stack-of-cards")
    cards: dict[str, _Card] = {}

    def show(seen: Seen) -> None:
        unknown = seen.away or (seen.value.runtime if seen.value and seen.value.runtime != "known" else "")
        parts.put(away, f"What runs is not known: {unknown}" if unknown else "")
        parts.old(box, bool(seen.away))
        rows = seen.value.strategies if seen.value else []
        parts.put(empty, "" if rows else "No strategy yet. Make one: it trades on paper until an admin opts it in.")
        for strategy in rows:
            if strategy.strategy_id in cards:
                cards[strategy.strategy_id].show(strategy)
            else:
                with box:
                    cards[strategy.strategy_id] = _Card(desk, strategy)

    await desk.follow("strategies", show)


# acting -------------------------------------------------------------------------------------------------------------------


def _told(desk: Desk, row: strategy_changes.Row, done: str) -> str:
    desk.room.live.touch("strategies")
    if not row.changed:
        return "It was so already."
    late = "" if row.announced else " The log is away: the runner hears of it once it is back."
    return f"{done} (version {row.version}).{late}"


def _ask_pause(desk: Desk, strategy: Strategy) -> None:
    async def work(values: Values, key: str) -> str:
        asked = Because(reason=values["reason"])
        row = await desk.ask(strategy_changes.pause, strategy.strategy_id, asked, key=key)
        return _told(desk, row, f"{strategy.strategy_id} is paused")

    words = ["No signal from the next tick. Its positions stay held, its open orders go on."]
    Question(desk, f"Pause {strategy.strategy_id}", work, words=words, fields=[reason(required=False)], do="Pause")


def _ask_activate(desk: Desk, strategy: Strategy) -> None:
    async def work(values: Values, key: str) -> str:
        asked = Because(reason=values["reason"])
        row = await desk.ask(strategy_changes.activate, strategy.strategy_id, asked, key=key)
        return _told(desk, row, f"{strategy.strategy_id} is active")

    where = "".join(f", and on {broker} ({target})" for broker, target in strategy.opt_ins.items())
    words = [f"It trades on paper{where} from the next tick, once its bars are warm."]
    Question(
        desk, f"Activate {strategy.strategy_id}", work, words=words, fields=[reason(required=False)], do="Activate"
    )


def _common(strategy: Strategy | None) -> list[Field]:
    given = strategy
    return [
        Field(
            "instruments",
            "Instruments",
            value=", ".join(given.instruments) if given else "",
            hint="Names like NSE:INFY, with commas between",
            required=True,
        ),
        Field(
            "product",
            "Product",
            options=[one.value for one in Product],
            value=(given.product if given else Product.MIS).value,
        ),
        Field("capital", "Capital (₹)", kind="number", value=given.capital if given else 100_000, min=1, step="any"),
        Field(
            "age_limit_s",
            "An entry is too old after (s)",
            kind="number",
            value=given.age_limit_s if given else 5,
            min=0,
            step="any",
        ),
    ]


def _instruments(values: Values) -> list[str]:
    return [name.strip().upper() for name in str(values["instruments"]).split(",") if name.strip()]


def _ask_change(desk: Desk, strategy: Strategy) -> None:
    kind = registry.known().get(strategy.class_name)
    made = fields_of(kind.parameters_model, strategy.parameters) if kind else []

    async def work(values: Values, key: str) -> str:
        if kind is None:
            raise CommandRefused(f"There is no class {strategy.class_name} any more: mend its module first.")
        asked = Change.model_validate(
            {
                "parameters": values_of(kind.parameters_model, values),
                "instruments": _instruments(values),
                "product": values["product"],
                "capital": values["capital"],
                "age_limit_s": values["age_limit_s"],
                "reason": values["reason"],
            }
        )
        row = await desk.ask(strategy_changes.change, strategy.strategy_id, asked, key=key)
        return _told(desk, row, f"{strategy.strategy_id} is changed")

    Question(
        desk,
        f"Change {strategy.strategy_id}",
        work,
        words=["Takes effect from the next tick, without a restart."],
        fields=[*made, *_common(strategy), reason(required=False)],
        do="Change",
    )


def _ask_class(desk: Desk) -> None:
    known = registry.known()
    names = {name: f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}" for name, kind in sorted(known.items())}

    async def work(values: Values, _: str) -> str:
        with desk.client:
            _ask_new(desk, values["class_name"])
        return ""

    fields = [Field("class_name", "What it does", options=names, value=next(iter(names), ""))]
    Question(desk, "New strategy", work, words=["Which class of strategies is it of?"], fields=fields, do="Go on")


def _ask_new(desk: Desk, class_name: str) -> None:
    model = registry.known()[class_name].parameters_model

    async def work(values: Values, key: str) -> str:
        asked = New.model_validate(
            {
                "strategy_id": values["strategy_id"],
                "class_name": class_name,
                "parameters": values_of(model, values),
                "instruments": _instruments(values),
                "product": values["product"],
                "capital": values["capital"],
                "age_limit_s": values["age_limit_s"],
                "active": bool(values["active"]),
                "reason": values["reason"],
            }
        )
        row = await desk.ask(strategy_changes.create, asked, key=key)
        return _told(desk, row, f"{asked.strategy_id} is there")

    name = Field("strategy_id", "Its name", required=True, placeholder="momentum-two", hint="2 to 32 of a-z 0-9 . _ -")
    active = Field("active", "Active from the start, on paper", kind="checkbox", value=False)
    fields = [name, *fields_of(model, {}), *_common(None), active, reason(required=False)]
    Question(
        desk,
        f"New {class_name}",
        work,
        words=["It trades on paper; opt it in afterwards."],
        fields=fields,
        do="Make it",
    )


def _ask_opt_in(desk: Desk, strategy: Strategy) -> None:
    settings = desk.room.settings
    target = settings.kite_target.value
    others = [
        one.value for one in settings.active_brokers if one is not Broker.PAPER and one.value not in strategy.opt_ins
    ]
    what = (
        "real money"
        if settings.real_money
        else "the local sandbox, nothing real"
        if settings.simulated
        else "no real money"
    )

    async def work(values: Values, key: str) -> str:
        asked = OptIn(
            broker=Broker(values["broker"]),
            target=settings.kite_target,
            typed=values["typed"].strip(),
            reason=values["reason"],
        )
        row = await desk.ask(strategy_changes.opt_in, strategy.strategy_id, asked, key=key)
        return _told(desk, row, f"{strategy.strategy_id} trades on {values['broker']} ({target})")

    Question(
        desk,
        f"Opt {strategy.strategy_id} in",
        work,
        words=[
            f"Beside paper, its orders will go to the target {target}: {what}.",
            "The opt-in names this target and means nothing on another one.",
        ],
        fields=[Field("broker", "Broker", options=others, value=others[0]), reason()],
        do="Opt in",
        danger=True,
        typed=target,
    )


def _ask_opt_out(desk: Desk, strategy: Strategy) -> None:
    async def work(values: Values, key: str) -> str:
        asked = OptOut(broker=Broker(values["broker"]), reason=values["reason"])
        row = await desk.ask(strategy_changes.opt_out, strategy.strategy_id, asked, key=key)
        return _told(
            desk, row, f"{strategy.strategy_id} trades on paper alone" if len(strategy.opt_ins) == 1 else "Opted out"
        )

    names = list(strategy.opt_ins)
    fields = [Field("broker", "Broker", options=names, value=names[0]), reason(required=False)]
    words = ["No new entry there. Its positions there stay held, its open orders go on."]
    Question(desk, f"Opt {strategy.strategy_id} out", work, words=words, fields=fields, do="Opt out")


PAGE = Page("/strategies", "Strategies", build)
