"""The chaos run's own deployment: home, ports, data, strategies that never signal by themselves, limits wide open.

Never touches another deployment, and refuses any KITE_TARGET but local.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import create_async_engine

from cli.provision import provision
from cli.setup import ensure_env
from core.clock import DAY_ROLL_HOUR, trading_day
from core.config import Settings
from core.errors import StopTheStart
from core.services import services
from core.storage.db import admin_url
from core.storage.models import RiskLimitsRow, StrategyRow, table_of
from core.storage.strategies import StrategyConfig
from core.trading.types import Broker, KiteTarget
from docker.native.stack import NativeStack
from docker.prerequisites import ROOT, TEST_OFFSETS
from tests.chaos.plan import EXTRA_INSTRUMENTS, STRATEGIES, strategy_name, universe
from tests.fixtures.system import System

PORT_BASE = 24_000

UP_TRIES = 3

FACTOR = 20
"""Durations of the order path are divided by this: absence is proven in seconds instead of minutes."""

SETTINGS = {
    "DURATION_FACTOR": FACTOR,
    "SANDBOX_EXTRA_INSTRUMENTS": EXTRA_INSTRUMENTS,
    "SANDBOX_TICK_INTERVAL": 1,
    "SANDBOX_STRICT_LIMITS": "true",
    "SANDBOX_ORDERS_PER_DAY": 100_000,
}
"""One tick a second an instrument: 235 of them are a market, and two cores are left for the rest. The sandbox counts as Zerodha does,
but for the day's 5,000 orders, which would stop a long run."""

SILENT = {"bar_s": 7200, "fast": 200, "slow": 400, "quantity": 1}
"""Bars of two hours have no history at the broker and 401 of them never come: the strategy runs and says nothing."""

WIDE = {
    "max_trades_a_day": 1_000_000,
    "max_day_loss": "1000000000",
    "max_open_orders": 100_000,
    "max_order_value": "1000000000",
}
OF_A_STRATEGY = {"cooldown_s": 0, "max_position": 1_000_000, "price_band_percent": "50", "max_tick_age_s": 600}


class Pinned(Settings):
    """Settings that keep their home while this process lives in another."""

    pinned_home: Path

    @property
    def home(self) -> Path:
        return self.pinned_home


def refuse_other_targets() -> None:
    """Raises StopTheStart for any KITE_TARGET but local: this run kills and floods whatever it talks to."""
    target = os.environ.get("KITE_TARGET", KiteTarget.LOCAL.value)
    if target != KiteTarget.LOCAL:
        raise StopTheStart(f"make chaos runs on KITE_TARGET=local alone, not on {target}: unset KITE_TARGET")


def refuse_the_days_end(now: datetime, lasts_s: float) -> None:
    """Raises StopTheStart where the trading day would end in the middle of the run: the book is emptied then, and orders whose end
    nobody saw wait for a person, by design."""
    if trading_day(now) != trading_day(now + timedelta(seconds=lasts_s)):
        raise StopTheStart(
            f"the trading day ends at {DAY_ROLL_HOUR:02d}:00 IST, within the {lasts_s / 60:.0f} minutes this run may take: "
            "start it after that, or with fewer orders"
        )


def folder() -> Path:
    base = os.environ.get("TEST_PORT_BASE")
    return ROOT / (f".chaos-home-{base}" if base else ".chaos-home")


def settings_of(home: Path) -> Settings:
    """The home's settings; `.env` is written when missing. A developer's own settings in the environment do not reach it.

    Raises:
        StopTheStart: the home's `.env` names another target than local.
    """
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    base = int(os.environ.get("TEST_PORT_BASE", PORT_BASE))
    ports = {name: str(base + offset) for name, offset in TEST_OFFSETS.items()}
    if ensure_env(home, ports):
        with (home / ".env").open("a") as env:
            env.writelines(f"{key}={value}\n" for key, value in SETTINGS.items())
    found = Pinned(_env_file=home / ".env", pinned_home=home)
    if found.kite_target is not KiteTarget.LOCAL:
        raise StopTheStart(f"{home / '.env'} names KITE_TARGET={found.kite_target}: the chaos run takes local alone")
    return found


def make() -> System:
    """A fresh, provisioned home with the run's strategies and limits; services are not started yet.

    Raises:
        StopTheStart: another target than local, or a part of the stack does not start.
    """
    refuse_other_targets()
    home = folder()
    if home.exists():
        stop(System(home, settings_of(home)))
        shutil.rmtree(home)
    system = System(home, settings_of(home))
    os.environ["ALPHA_PANDA_HOME"] = str(home)
    NativeStack(system.settings, services(system.settings)).start_infra()
    asyncio.run(_fill(system.settings))
    return system


def up(system: System) -> None:
    """`alpha-panda up`; again where it gave up waiting, as it says one may: on a busy machine a start takes longer than its bound.

    Raises:
        StopTheStart: with its last words.
    """
    for _ in range(UP_TRIES):
        done = system.command("up", check=False)
        if done.returncode == 0:
            return
    raise StopTheStart(f"alpha-panda up did not succeed in {UP_TRIES} tries:\n{done.stdout}{done.stderr}")


def stop(system: System) -> None:
    """End every process of the home, thawing what was left frozen."""
    from tests.chaos.blows import thaw_all

    thaw_all(system)
    system.end()


async def _fill(settings: Settings) -> None:
    await provision(settings)
    engine = create_async_engine(admin_url(settings))
    rows, limits = table_of(StrategyRow), table_of(RiskLimitsRow)
    listed = universe()
    async with engine.begin() as connection:
        await connection.execute(delete(rows))
        await connection.execute(delete(limits))
        for number in range(STRATEGIES):
            mine = tuple(row.key for row in listed[number::STRATEGIES])
            name = strategy_name(number)
            opt_in = {Broker.ZERODHA.value: KiteTarget.LOCAL.value}
            row = StrategyConfig(name, "Momentum", SILENT, mine, True, opt_ins=opt_in)
            await connection.execute(insert(rows).values(**row.as_row() | {"capital": row.capital}))
            await connection.execute(insert(limits).values(scope="strategy", name=name, limits=WIDE | OF_A_STRATEGY))
        for broker in settings.active_brokers:
            await connection.execute(insert(limits).values(scope="account", name=broker.value, limits=WIDE))
    await engine.dispose()
