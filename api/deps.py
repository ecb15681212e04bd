"""What routes are given: the reads and the prober, made once per process by the app."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.metrics import MetricsPage
from api.probes import Prober
from api.reads import Reads


def _reads(request: Request) -> Reads:
    found: Reads = request.app.state.reads
    return found


def _prober(request: Request) -> Prober:
    found: Prober = request.app.state.prober
    return found


def _metrics(request: Request) -> MetricsPage:
    found: MetricsPage = request.app.state.metrics
    return found


ReadsDep = Annotated[Reads, Depends(_reads)]
ProberDep = Annotated[Prober, Depends(_prober)]
MetricsDep = Annotated[MetricsPage, Depends(_metrics)]
