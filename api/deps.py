"""What routes are given: the reads and the prober, made once per process by the app."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.hub import EventHub
from api.metrics import MetricsPage
from api.probes import Prober
from api.reads import Reads
from core.config import Settings


def _reads(request: Request) -> Reads:
    found: Reads = request.app.state.reads
    return found


def _prober(request: Request) -> Prober:
    found: Prober = request.app.state.prober
    return found


def _metrics(request: Request) -> MetricsPage:
    found: MetricsPage = request.app.state.metrics
    return found


def _hub(request: Request) -> EventHub:
    found: EventHub = request.app.state.hub
    return found


def _settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


ReadsDep = Annotated[Reads, Depends(_reads)]
ProberDep = Annotated[Prober, Depends(_prober)]
MetricsDep = Annotated[MetricsPage, Depends(_metrics)]
HubDep = Annotated[EventHub, Depends(_hub)]
SettingsDep = Annotated[Settings, Depends(_settings)]
