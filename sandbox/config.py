"""Everything the sandbox can be told at start. Nothing here is read from a file: the caller decides."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class SandboxConfig(BaseModel):
    """One sandbox. Durations are seconds, money rupees, ports loopback TCP ports (0: any free one)."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=28100, ge=0, le=65535)
    data_dir: Path
    seed: int = 7
    """Decides every price and candle: the same seed gives the same history."""

    api_key: str = Field(min_length=1)
    api_secret: SecretStr
    user_id: str = Field(default="AP0001", min_length=1)
    app_id: int = 1
    redirect_url: str = "http://127.0.0.1:28101/"
    """Where the login page sends the browser with the request_token, as registered for the app."""

    postback_url: str | None = None
    """Where order postbacks are sent; None sends none."""

    strict_limits: bool = False
    """Enforce Kite's rate limits and three sockets per key; off, only the 25 modifications per order bind."""

    orders_per_second: int = Field(default=10, ge=1)
    orders_per_minute: int = Field(default=400, ge=1)
    orders_per_day: int = Field(default=5_000, ge=1)
    """Placement requests that `strict_limits` lets through in a calendar second, minute and trading day."""

    scenario: Path | None = None
    """Fault rules to start with: a YAML or JSON file. Counts of rules it had before go on."""

    still: bool = False
    """Prices move only by the admin endpoint: every instrument starts at the price its table names."""

    extra_instruments: int = Field(default=0, ge=0, le=5000)
    """Synthetic NSE shares (PANDA0001 …) beside the real-looking ones, for load runs."""

    tick_interval: float = Field(default=0.25, gt=0.0005, le=60)
    """Time between two ticks of one subscribed instrument."""

    heartbeat_interval: float = Field(default=1.0, gt=0, le=60)
    """A socket that had no frame for this long gets a 1-byte heartbeat."""

    step_latency: float = Field(default=0.002, ge=0, le=60)
    """Time an order spends in each state on its way to the exchange and back."""

    opening_cash: Decimal = Field(default=Decimal(10_000_000), gt=0)
