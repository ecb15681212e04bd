"""Is it alive, is it ready, and what do the counters say. Open: probes and Prometheus ask while PostgreSQL, which knows people, is away.

Nothing here tells of money, people or secrets.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.auth import open_to_all
from api.deps import MetricsDep, ProberDep
from api.models import Live, Ready
from core import metrics

router = APIRouter(tags=["health"], dependencies=[open_to_all])


@router.get("/health/live", summary="Does this process answer?")
async def live() -> Live:
    """Answers as long as the process does; asks nobody else."""
    return Live()


@router.get(
    "/health/ready",
    summary="Is every part well?",
    responses={503: {"model": Ready, "description": "Some part is not ready: its reason is in `parts`."}},
)
async def ready(prober: ProberDep, response: Response) -> Ready:
    """Each server and each process by name with its reason. Asked at most once a second."""
    answer = await prober.ready()
    if not answer.ready:
        response.status_code = 503
    return answer


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Text exposition format."}},
)
async def prometheus(page: MetricsDep) -> Response:
    """All processes together: lag, rates, latencies, order states, depth of the dead-letter queues."""
    return Response(await page.render(), media_type=metrics.CONTENT_TYPE)
