"""Examples of what is answered: one morning of one strategy, told by every route."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from pydantic import BaseModel

from api.curve import CurveMark
from api.models import (
    BrokerPnl,
    Decision,
    InstanceStatus,
    Live,
    OrderDetail,
    OrderPage,
    OrderSummary,
    Part,
    PnlReport,
    Position,
    PositionList,
    Ready,
    ReconciliationList,
    Round,
    Strategy,
    StrategyList,
    TimelineEvent,
    TopicStatus,
)
from api.routers import alert_channels, auth, happenings, operations, order_commands, people, reports, strategy_changes
from core.events.payloads import Denial, FillRecord, OrderState, ReconciledLine, SendRecord, Signal
from core.people.roles import Role, Scope
from core.storage.alerts import Outcome
from core.storage.redis import EVERYTHING, PnlView
from core.trading.commands import CommandKind, CommandOutcome, CommandState
from core.trading.risk.limits import MODELS
from core.trading.risk.limits import Scope as LimitScope
from core.trading.types import (
    Broker,
    Exchange,
    Intent,
    OrderStatus,
    OrderType,
    Product,
    SendState,
    Side,
    Validity,
)

DAY = date(2026, 10, 7)
AT = datetime(2026, 10, 7, 4, 1, 5, tzinfo=UTC)
ENDS = datetime(2026, 10, 14, 3, 30, tzinfo=UTC)
ORDER_ID = UUID("01999c2a-7b10-7c3e-9a51-2f60c1d4e8a7")
SIGNAL_ID = UUID("01999c2a-7af0-7d21-8c11-4b7be90a6f03")
REQUEST_ID = UUID("01999c2b-10aa-7e5c-a2c4-6d0f5b9e7712")
EVENT_ID = UUID("01999c2b-2c41-7b0e-b4a1-97c2d3e4f501")
PAPER, NAME, INSTANCE, INFY = Broker.PAPER, "momentum-demo", "momentum-demo@paper", "NSE:INFY"
SHORTENED = "Vb0Jc1bq9x…"
"""Stands for tokens and passwords."""
PRICE, CHARGES, NONE = Decimal("1500.00"), Decimal("3.12"), Decimal("0.00")

SIGNAL = Signal(
    signal_id=SIGNAL_ID,
    strategy_id=NAME,
    instance=INSTANCE,
    strategy_version=3,
    instrument=INFY,
    instrument_token=408065,
    exchange=Exchange.NSE,
    tradingsymbol="INFY",
    side=Side.BUY,
    intent=Intent.ENTRY,
    quantity=50,
    order_type=OrderType.LIMIT,
    product=Product.MIS,
    validity=Validity.DAY,
    price=PRICE,
    slot="2026-10-07T04:01:00+00:00",
    origin_at=AT,
    age_limit_s=5,
    reason="fast average crossed above the slow one",
)
STATE = OrderState(
    **SIGNAL.model_dump(include=set(OrderState.model_fields) & set(Signal.model_fields) - {"reason"}),
    order_id=ORDER_ID,
    account="PAPER",
    target="paper",
    status=OrderStatus.FILLED,
    filled_quantity=50,
    average_price=PRICE,
    broker_order_id="261007000000017",
    send_no=1,
    reason=None,
    created_at=AT,
    updated_at=AT,
    realized_pnl=NONE,
    charges=CHARGES,
)
SUMMARY = OrderSummary.of(PAPER, STATE, simulated=True)
FILL = FillRecord(
    account="PAPER",
    trading_day=DAY,
    exchange=Exchange.NSE,
    broker_order_id="261007000000017",
    trade_id="74021885",
    quantity=50,
    price=PRICE,
    filled_at=AT,
    realized_pnl=NONE,
    charges=CHARGES,
    position_quantity=50,
    position_average_price=PRICE,
)
SEND = SendRecord(
    send_no=1,
    tag="K7Q2M4T6R8W1Z3B5D7F9",
    state=SendState.SENT,
    quantity=50,
    broker_order_id="261007000000017",
    claimed_at=AT,
    answered_at=AT,
)
DETAIL = OrderDetail(
    order=SUMMARY,
    account="PAPER",
    target="paper",
    exchange=Exchange.NSE,
    tradingsymbol="INFY",
    instrument_token=408065,
    signal=SIGNAL,
    decision=Decision(accepted=True, decided_at=AT, denials=[]),
    sends=[SEND],
    fills=[FILL],
    events=[
        TimelineEvent(
            event_id=EVENT_ID, at=AT, type="order.filled", order_seq=3, text="filled 50 @ 1500.00, 50 of 50",
            data={"order_seq": 3},
        )
    ],
    workflow_id=f"paper-order-{ORDER_ID}",
    temporal_url=f"http://127.0.0.1:28080/namespaces/alpha-panda/workflows/paper-order-{ORDER_ID}",
)  # fmt: skip
DENIED = Denial(code="STALE_TICK", message="the last tick of NSE:INFY is 7.2 s old, the limit is 5 s")
COMMAND = order_commands.Command(
    request_id=REQUEST_ID,
    order_id=ORDER_ID,
    broker=PAPER,
    kind=CommandKind.CANCEL,
    state=CommandState.FINISHED,
    outcome=CommandOutcome.APPLIED,
    evidence="the book shows it cancelled",
    parameters={},
    requested_by="meera",
    reason="moved against us",
    created_at=AT,
    finished_at=AT,
    note=None,
)
POSITION = Position(
    broker=PAPER, instance=INSTANCE, strategy_id=NAME, account="PAPER", instrument=INFY, instrument_token=408065,
    exchange=Exchange.NSE, tradingsymbol="INFY", product=Product.MIS, quantity=50, average_price=PRICE,
    last_price=Decimal("1506.40"), marked_at=AT, realized_pnl=NONE, unrealized_pnl=Decimal("320.00"),
    gross_pnl=Decimal("320.00"), charges=CHARGES, net_pnl=Decimal("316.88"), trading_day=DAY, day_realized_pnl=NONE,
    day_charges=CHARGES, day_net_pnl=Decimal("316.88"), fills=1, updated_at=AT, simulated=True,
)  # fmt: skip


def _pnl(instance: str, strategy: str | None) -> PnlView:
    return PnlView(
        instance=instance, strategy_id=strategy, realized_pnl=NONE, unrealized_pnl=Decimal("320.00"),
        gross_pnl=Decimal("320.00"), charges=CHARGES, net_pnl=Decimal("316.88"), trading_day=DAY, day_realized_pnl=NONE,
        day_gross_pnl=Decimal("320.00"), day_charges=CHARGES, day_net_pnl=Decimal("316.88"), open_positions=1, unmarked=0,
        as_of=AT, simulated=True,
    )  # fmt: skip


MARK = CurveMark(
    at=AT, broker=PAPER, instance=INSTANCE, realized_pnl=NONE, unrealized_pnl=Decimal("320.00"),
    gross_pnl=Decimal("320.00"), charges=CHARGES, net_pnl=Decimal("316.88"), unmarked=0,
)  # fmt: skip
STEP = reports.CurvePoint(at=AT, instance=INSTANCE, realized_pnl=NONE, charges=CHARGES, net_pnl=-CHARGES)
LINE = ReconciledLine(
    exchange=Exchange.NSE, tradingsymbol="INFY", product=Product.MIS, broker=50, ours=50, foreign=0, drift=0
)
ROUND = Round(
    broker=PAPER, round_id=EVENT_ID, account="PAPER", trading_day=DAY, began_at=AT, finished_at=AT, reasons=("asked by meera",),
    requests=(REQUEST_ID,), judged=True, lines=(LINE,),
)  # fmt: skip
RUNNING = {"state": "running", "version": 3}
STRATEGY = Strategy(
    strategy_id=NAME, class_name="Momentum", active=True, version=3, parameters={"bar_s": 60, "fast": 9, "slow": 21},
    instruments=[INFY], product=Product.MIS, age_limit_s=5, capital=Decimal(250_000), opt_ins={},
    instances=[
        InstanceStatus(
            instance=INSTANCE, broker=PAPER, target="paper", active=True, reason="", state="running", runtime=RUNNING
        )
    ],
)  # fmt: skip
ROW = strategy_changes.Row(
    strategy_id=NAME, changed=True, announced=True, version=3,
    row={
        "strategy_id": NAME, "class_name": "Momentum", "parameters": {"bar_s": 60, "fast": 9, "slow": 21},
        "instruments": [INFY], "active": True, "product": "MIS", "age_limit_s": 5.0, "capital": "250000", "opt_ins": {},
        "version": 3,
    },
)  # fmt: skip
SET = {"max_position": 500, "max_day_loss": "5000"}
LIMITS = strategy_changes.Limits(
    scope=LimitScope.STRATEGY, name=NAME, limits=SET, version=2, fields={"max_position": {"type": "integer", "default": 500}},
    effective=MODELS[LimitScope.STRATEGY].model_validate(SET).model_dump(mode="json"),
)  # fmt: skip
SWITCH = operations.Switch(
    kill_id=str(REQUEST_ID), broker=PAPER, account="PAPER", strategy_id=None, requested_by="meera", reason="prices look wrong",
    include_foreign=False, engaged_at=AT, finished_at=None, report=None, released_at=None, released_by=None,
    release_reason=None,
)  # fmt: skip
LETTER = operations.DeadLetter(
    letter="paper.signals.raw/3/41", topic="paper.signals.raw", key=f"{INSTANCE}:{INFY}", event_id=str(EVENT_ID), type="signal.raw",
    failed_at=AT, reason="validate: Poison: quantity: must be above 0", stage="validate", error_type="Poison",
    error="quantity: must be above 0", attempts="1", consumer_group="alpha-panda.risk-manager", state="OPEN", by=None, note=None,
)  # fmt: skip
USER = people.User(name="meera", role=Role.TRADER, enabled=True, created_at=AT, password_set_at=AT)
KEY = people.Key(
    key_id="1f0c2b7a9d3e", owner="meera", name="my bot", role=Role.TRADER, scopes=[Scope.READ, Scope.ORDERS], created_at=AT,
    expires_at=None, last_used_at=AT, revoked_at=None,
)  # fmt: skip
ME = auth.Me(
    name="meera",
    role=Role.TRADER,
    scopes=list(Scope),
    via="session",
    target="local",
    real_money=False,
    csrf_token=SHORTENED,
)
TOLD = alert_channels.ToldAlert(
    alert_id=EVENT_ID, kind="drift", subject="PAPER", message="paper: INFY MIS drifts by 50: the broker has 100, we have 50",
    action="Look at the broker's book; `alpha-panda reconcile` compares again.", source="orders-paper", at=AT, repeats=None,
    told=[alert_channels.Telling(channel="json-1f0c2b7a", state=Outcome.SENT, attempts=1, error=None, ended_at=AT)],
)  # fmt: skip
ALERT = {"id": str(EVENT_ID), "type": "alert", "ts": AT.isoformat(), "data": {"kind": "drift", "subject": "PAPER"}}
CHANNEL = alert_channels.Channel(
    channel="json-1f0c2b7a", last_sent_at=AT, failing_since=None, last_error=None, waiting=0
)
DECIDED = happenings.DecidedSignal(
    broker=PAPER, signal=SIGNAL, accepted=False, order_id=None, denials=[DENIED], decided_at=AT, simulated=True
)
AUDIT = people.AuditEntry(
    audit_id=EVENT_ID, at=AT, actor="meera", via="session", origin="127.0.0.1", action="strategy.change", subject=NAME,
    outcome="done", reason="fewer turns", before={"parameters": {"slow": 21}}, after={"parameters": {"slow": 34}},
    request_id=REQUEST_ID,
)  # fmt: skip
URL = "https://kite.zerodha.com/connect/login?v=3&api_key=…"

ANSWERS: tuple[BaseModel, ...] = (
    Live(),
    Ready(ready=True, at=AT, simulated=True, parts=[Part(name="kafka", kind="server", ready=True, reason="")]),
    auth.Tokens(access_token=SHORTENED, expires_in=900, refresh_token=SHORTENED, session_ends_at=ENDS, me=ME),
    ME,
    people.UserList(users=[USER]),
    people.UserWithPassword(user=USER, password=SHORTENED),
    USER,
    people.KeyList(keys=[KEY]),
    people.KeyWithSecret(key=KEY, secret=SHORTENED),
    KEY,
    people.AuditPage(entries=[AUDIT], next=None),
    OrderPage(orders=[SUMMARY], next=None),
    DETAIL,
    order_commands.Placed(signal_id=SIGNAL_ID, accepted=True, order_id=ORDER_ID, denials=[], decided_at=AT),
    COMMAND,
    order_commands.Evidence(
        broker=PAPER, order={"status": "UNRESOLVED"}, sends=[SEND.model_dump(mode="json")], books=[]
    ),
    PositionList(simulated=True, positions=[POSITION]),
    PnlReport(
        simulated=True,
        brokers=[BrokerPnl(broker=PAPER, total=_pnl(EVERYTHING, None), instances=[_pnl(INSTANCE, NAME)])],
    ),
    reports.PnlCurve(trading_day=DAY, simulated=True, points=[STEP], marks=[MARK]),
    ReconciliationList(simulated=True, rounds=[ROUND]),
    ROUND,
    operations.RoundAsked(request_id=str(REQUEST_ID), round=ROUND),
    StrategyList(simulated=True, runtime="known", strategies=[STRATEGY]),
    strategy_changes.StrategyClasses(
        classes=[
            strategy_changes.StrategyClass(
                class_name="Momentum",
                summary="Follows a crossing of averages.",
                parameters={"properties": {"fast": {"type": "integer"}}},
            )
        ]
    ),
    ROW,
    LIMITS,
    operations.KillStates(
        brokers=[
            operations.KillState(
                broker=PAPER, account_flag="meera: prices look wrong", strategy_flags={}, switches=[SWITCH]
            )
        ]
    ),
    operations.Switched(switches=[SWITCH], trouble={}),
    operations.DeadLetters(letters=[LETTER]),
    operations.DeadLetterDetail(**LETTER.model_dump(), headers={"type": "signal.raw"}, value_base64="eyJpZCI6…"),
    operations.LetterOutcomes(outcomes=[operations.LetterOutcome(letter="paper.signals.raw/3/41", outcome="replayed")]),
    operations.BrokerSession(
        target="local", user_id="AB1234", login_time=AT, expires_at=ENDS, valid=True, login_url=URL, simulated=True
    ),
    operations.LoginLink(login_url=URL),
    happenings.AlertList(alerts=[ALERT]),
    happenings.SignalPage(signals=[DECIDED], next=None),
    DECIDED,
    alert_channels.Channels(channels=[CHANNEL], trouble=[]),
    alert_channels.AlertPage(alerts=[TOLD], next=None),
    alert_channels.Tried(tested=[alert_channels.TriedChannel(channel="json-1f0c2b7a", error=None)], in_history=True),
    reports.Streams(
        topics=[
            TopicStatus(
                topic="paper.signals.raw", partitions=6, end_offset=412, lag={"alpha-panda.risk-manager": 0}, dlq=0
            )
        ],
        lag=[
            reports.PartitionLag(
                group="alpha-panda.risk-manager", topic="paper.signals.raw", partition=3, committed=71, end=71, lag=0
            )
        ],
    ),
    reports.SettingsView(
        target="local", real_money=False, simulated=True, active_brokers=[PAPER], settings={"log_level": "INFO"}
    ),
)
