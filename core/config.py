"""All settings, read once from the environment and the home folder's `.env`; every bad field is reported at once, by name.

Never holds a default password and never falls back from a bad value to a good one.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from core.alerting import channels as alert_channels
from core.alerting.policy import QuietHours
from core.errors import ConfigError
from core.trading.types import Broker, KiteTarget

PROJECT_ROOT = Path(__file__).resolve().parent.parent

Port = Annotated[int, Field(ge=1024, le=65535)]
Password = Annotated[SecretStr, Field(min_length=16)]

DISTINCT_IN_SECRET = 8
"""Different characters in the secret that signs sessions: fewer are no generated one."""

_PLACEHOLDER = re.compile(
    r"change.?me|placeholder|replace.?me|your[-_ ]|example|<.*>|^(?:password|passwd|secret|admin|default|test)[\W\d_]*"
    r"(?:password|secret)?[\W\d_]*$",
    re.IGNORECASE,
)


def home() -> Path:
    """The folder that holds `.env` and `var/`: ALPHA_PANDA_HOME, or the project folder."""
    return Path(os.environ.get("ALPHA_PANDA_HOME") or PROJECT_ROOT).resolve()


class Settings(BaseSettings):
    """One deployment's settings. Durations are seconds, ports are loopback TCP ports, money is rupees."""

    model_config = SettingsConfigDict(extra="ignore", env_file_encoding="utf-8", frozen=True)

    active_brokers: Annotated[tuple[Broker, ...], NoDecode] = (Broker.PAPER, Broker.ZERODHA)
    kite_target: KiteTarget = KiteTarget.LOCAL

    kafka_host: str = "127.0.0.1"
    kafka_port: Port = 29092
    kafka_controller_port: Port = 29093
    kafka_admin_password: Password
    kafka_app_password: Password
    kafka_paper_password: Password
    kafka_zerodha_password: Password
    kafka_partitions: int = Field(default=4, ge=1, le=64)

    postgres_host: str = "127.0.0.1"
    postgres_port: Port = 25432
    postgres_database: str = "alpha_panda"
    postgres_admin_password: Password
    postgres_app_password: Password
    postgres_paper_password: Password
    postgres_zerodha_password: Password
    postgres_temporal_password: Password | None = None

    redis_host: str = "127.0.0.1"
    redis_port: Port = 26379
    redis_password: Password

    temporal_host: str = "127.0.0.1"
    temporal_port: Port = 27233
    temporal_ui_port: Port = 28233
    console_port: Port = 28080
    temporal_namespace: str = "alpha-panda"
    temporal_ui_url: str | None = None

    api_host: str = "127.0.0.1"
    api_port: Port = 28000
    api_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ("127.0.0.1", "localhost")
    api_jwt_secret: Annotated[SecretStr, Field(min_length=32)]

    alert_urls: SecretStr = SecretStr("")
    alert_quiet_hours: str = ""
    alert_heartbeat_url: SecretStr = SecretStr("")

    monitoring: bool = False
    prometheus_port: Port = 28090
    grafana_port: Port = 28030
    grafana_admin_password: Password | None = None

    sandbox_host: str = "127.0.0.1"
    sandbox_port: Port = 28100
    sandbox_seed: int = 7
    sandbox_still: bool = False
    sandbox_extra_instruments: int = Field(default=0, ge=0, le=5000)
    sandbox_tick_interval: float = Field(default=0.25, gt=0.0005, le=60)
    sandbox_strict_limits: bool = False
    sandbox_orders_per_second: int = Field(default=10, ge=1)
    sandbox_orders_per_minute: int = Field(default=400, ge=1)
    sandbox_orders_per_day: int = Field(default=5000, ge=1)
    sandbox_scenario: str = ""
    sandbox_login_by_hand: bool = False

    kite_api_key: str = Field(min_length=4)
    kite_api_secret: SecretStr = Field(min_length=8)
    kite_user_id: str = Field(min_length=2)
    kite_login_port: Port = 28101

    paper_capital: Decimal = Field(default=Decimal("1000000"), gt=0)
    duration_factor: float = Field(default=1.0, ge=1.0, le=1000.0)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    failpoints: str = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings

    @field_validator("active_brokers", "api_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _is_no_placeholder(cls, value: Any, info: ValidationInfo) -> Any:
        ours = str(info.field_name).endswith(("_password", "_secret"))
        if ours and isinstance(value, SecretStr) and _PLACEHOLDER.search(value.get_secret_value()):
            raise ValueError(
                "is a placeholder, not a secret: `make setup` writes a generated one where the line is gone"
            )
        return value

    @field_validator("api_jwt_secret", mode="after")
    @classmethod
    def _is_hard_to_guess(cls, value: SecretStr) -> SecretStr:
        if len(set(value.get_secret_value())) < DISTINCT_IN_SECRET:
            raise ValueError(
                "repeats a few characters: take `openssl rand -hex 32`, or delete the line and `make setup`"
            )
        return value

    @field_validator("alert_urls", mode="after")
    @classmethod
    def _are_channels(cls, value: SecretStr) -> SecretStr:
        alert_channels.check(value.get_secret_value())
        return value

    @field_validator("alert_heartbeat_url", mode="after")
    @classmethod
    def _is_an_address(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not re.fullmatch(r"https?://[^\s/]+\S*", value.get_secret_value()):
            raise ValueError("is no http or https address: write the one your monitor gave you, or nothing")
        return value

    @field_validator("alert_quiet_hours", mode="after")
    @classmethod
    def _are_hours(cls, value: str) -> str:
        QuietHours.parse(value)
        return value

    @model_validator(mode="after")
    def _paper_is_always_there(self) -> Settings:
        if Broker.PAPER not in self.active_brokers:
            raise ValueError("ACTIVE_BROKERS must name paper: every active strategy always has its paper instance")
        if len(set(self.active_brokers)) != len(self.active_brokers):
            raise ValueError("ACTIVE_BROKERS names a broker twice: name each once")
        if self.kite_target is not KiteTarget.LOCAL and self.duration_factor != 1.0:
            raise ValueError("DURATION_FACTOR is for tests on the local sandbox: set it to 1 for any other KITE_TARGET")
        return self

    # Where things are ------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return home()

    @property
    def var(self) -> Path:
        """Everything the deployment writes lives below this folder."""
        return self.home / "var"

    @property
    def run_dir(self) -> Path:
        return self.var / "run"

    @property
    def kafka_bootstrap(self) -> str:
        return f"{self.kafka_host}:{self.kafka_port}"

    @property
    def temporal_address(self) -> str:
        return f"{self.temporal_host}:{self.temporal_port}"

    @property
    def temporal_ui(self) -> str:
        """Address a person opens; without a trailing slash."""
        return self.temporal_ui_url or f"http://127.0.0.1:{self.temporal_ui_port}"

    @property
    def simulated(self) -> bool:
        """True where prices come from the local sandbox and every page must say SIMULATED."""
        return self.kite_target is KiteTarget.LOCAL

    @property
    def real_money(self) -> bool:
        """True where orders of an opted-in strategy reach an exchange."""
        return self.kite_target is KiteTarget.PRODUCTION and set(self.active_brokers) != {Broker.PAPER}

    @property
    def logs_in_itself(self) -> bool:
        """Whether a session that dies is replaced without a person: on local, unless a person wants to rehearse it."""
        return self.simulated and not self.sandbox_login_by_hand

    @property
    def kite_root(self) -> str:
        """REST root of the target. The SDK drops any path in it."""
        return {
            KiteTarget.LOCAL: f"http://{self.sandbox_host}:{self.sandbox_port}",
            KiteTarget.ZERODHA_SANDBOX: "https://sandbox.kite.trade",
            KiteTarget.PRODUCTION: "https://api.kite.trade",
        }[self.kite_target]

    @property
    def kite_ws_root(self) -> str:
        return {
            KiteTarget.LOCAL: f"ws://{self.sandbox_host}:{self.sandbox_port}",
            KiteTarget.ZERODHA_SANDBOX: "wss://ws-sandbox.kite.trade",
            KiteTarget.PRODUCTION: "wss://ws.kite.trade",
        }[self.kite_target]

    @property
    def session_file(self) -> Path:
        """The target's session (0600), written by `alpha-panda login` and watched by every process that needs it."""
        return self.var / "session" / f"{self.kite_target}.json"


def load_settings(env_file: Path | None = None, **overrides: Any) -> Settings:
    """Read and check the settings.

    Raises:
        ConfigError: naming every bad or missing field with the value's problem and where to mend it.
    """
    path = env_file or home() / ".env"
    try:
        return Settings(_env_file=path, **overrides)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _explain(error: ValidationError, path: Path) -> str:
    lines = [f"Bad settings in {path} (or the environment); mend these and start again:"]
    for problem in error.errors(include_url=False, include_input=False):
        name = "_".join(str(part) for part in problem["loc"]).upper()
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            text = "is missing; `make setup` writes it with a generated value"
        lines.append(f"  {name}: {text}" if name else f"  {text}")
    return "\n".join(lines)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return load_settings()
