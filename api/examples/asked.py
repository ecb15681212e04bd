"""Examples of what is asked, each a whole body as one would send it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from api.routers import alert_channels, auth, operations, order_commands, people, strategy_changes
from core.events import topics
from core.trading.types import Broker

ORDER = "01999c2a-7b10-7c3e-9a51-2f60c1d4e8a7"
LETTERS = {
    "letters": [f"{topics.signals_raw(Broker.PAPER)}/3/41"],
    "reason": "the strategy is mended",
    "force": False,
    "dry_run": False,
}

ASKED: dict[type[BaseModel], dict[str, Any]] = {
    auth.Login: {"name": "admin", "password": "four-groups-of-five", "cookies": False},
    auth.Refresh: {"refresh_token": "Vb0Jc1bq9x0n2dCqkM3wqv7mFJp2mS1yq8l3sT4uWxY"},
    auth.PasswordChange: {"old": "four-groups-of-five", "new": "a-longer-one-of-your-own"},
    people.NewUser: {"name": "meera", "role": "trader", "reason": "joined the desk"},
    people.ChangeUser: {"role": "viewer", "reason": "on leave"},
    people.Nothing: {"reason": "forgot it"},
    people.NewKey: {"name": "my bot", "role": "trader", "scopes": ["read", "orders"], "reason": "places hedges"},
    order_commands.Ticket: {
        "broker": Broker.PAPER.value,
        "strategy": "momentum-demo",
        "instrument": "NSE:INFY",
        "side": "BUY",
        "quantity": 5,
        "intent": "ENTRY",
        "order_type": "LIMIT",
        "price": "1500.00",
        "reason": "a dip",
    },
    order_commands.Cancel: {"reason": "moved against us"},
    order_commands.Modify: {"reason": "follow the price", "price": "1502.50"},
    order_commands.Resolve: {
        "reason": "the contract note has it",
        "resolution": "book-fill",
        "order_id": ORDER,
        "quantity": 5,
        "price": "1500.00",
        "trade_id": "74021885",
        "filled_at": "2026-10-07T09:31:05+05:30",
    },
    strategy_changes.New: {
        "strategy_id": "momentum-two",
        "class_name": "Momentum",
        "parameters": {"bar_s": 60, "fast": 9, "slow": 21},
        "instruments": ["NSE:INFY", "NSE:TCS"],
        "capital": "250000",
        "reason": "a slower one",
    },
    strategy_changes.Change: {"set": {"slow": 34}, "capital": "300000", "reason": "fewer turns"},
    strategy_changes.Because: {"reason": "results today"},
    strategy_changes.OptIn: {
        "broker": Broker.ZERODHA.value,
        "target": "local",
        "typed": "local",
        "reason": "four green weeks",
    },
    strategy_changes.OptOut: {"broker": Broker.ZERODHA.value, "reason": "back to paper"},
    strategy_changes.SetLimits: {"limits": {"max_position": 500, "max_day_loss": "5000"}, "reason": "smaller"},
    operations.Engage: {"broker": Broker.PAPER.value, "typed": "kill", "reason": "prices look wrong"},
    operations.Release: {"broker": Broker.PAPER.value, "typed": "release", "reason": "prices are right again"},
    operations.RunNow: {"broker": Broker.PAPER.value, "reason": "after the outage"},
    operations.Letters: LETTERS,
    operations.LogIn: {
        "redirect": "http://127.0.0.1:28000/?status=success&request_token=AbCdEf",
        "reason": "the day's login",
    },
    operations.LogOut: {"reason": "done for the day"},
    alert_channels.Try: {"reason": "a new channel"},
}
