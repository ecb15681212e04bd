"""How many dead letters are open: on the dead-letter topics, and neither replayed nor dropped. Reads only."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy.ext.asyncio import AsyncEngine

from core import metrics
from core.config import Settings
from core.events import topics
from core.messaging import lag
from core.messaging.dlq_letters import place_of, read_records
from core.storage import dlq_actions

_counted: dict[str, tuple[object, int]] = {}
"""Per topic with closed letters: what it was counted at (offsets, closed letters), and how many of them the log still has."""


async def dlq_depth(settings: Settings, engine: AsyncEngine) -> dict[str, int]:
    """Open letters on each dead-letter topic of the active brokers and the shared ones, by its name; sets the metric.

    Raises:
        Transient: the log or the database is away.
    """
    names = [topics.dlq(topic) for topic in topics.consumed_topics(settings.active_brokers)]
    first, end = await lag.bounds(settings, names)
    closed: dict[str, set[dlq_actions.Place]] = defaultdict(set)
    for place in await dlq_actions.closed(engine, names):
        closed[place.topic].add(place)
    depth = {}
    for name in names:
        parts = sorted((each.partition, first[each], end[each]) for each in end if each.topic == name)
        depth[name] = sum(stop - start for _, start, stop in parts)
        if closed[name] and depth[name]:
            state = (parts, frozenset(closed[name]))
            if _counted.get(name, (None, 0))[0] != state:
                ends = {(name, number): stop for number, start, stop in parts if stop > start}
                there = {place_of(record) for record in await read_records(settings, ends)}
                _counted[name] = (state, len(there & closed[name]))
            depth[name] -= _counted[name][1]
        metrics.dlq_depth.labels(name).set(depth[name])
    return depth
