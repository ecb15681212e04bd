"""Every duration of the order path, in one group. Tests divide all of them by one factor; real targets never do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class OrderDurations(BaseModel):
    """Seconds. Changing a default here changes new orders only: a running order carries its own copy."""

    model_config = ConfigDict(frozen=True)

    pacer_wait: float = 2.0
    """Longest wait for the right to send; then "not placed, retryable"."""
    send_deadline: float = 8.0
    """From the claim: past this no byte may leave. The HTTP deadline (7 s, in the broker) lies inside."""
    place_timeout: float = 15.0
    """start_to_close of a broker call; exceeds the send deadline."""
    heartbeat: float = 3.0
    """A broker call silent for this long is a dead worker."""
    retry_first: float = 0.3
    retry_longest: float = 5.0
    first_look: float = 1.0
    """After the broker's answer, when no hint came: look at the book."""
    look_longest: float = 60.0
    """The slow fallback timer doubles from first_look up to this."""
    lookup_first: float = 0.5
    """After an unknown outcome: first look-up by tag; doubles up to absence_spacing."""
    absence_books: int = 3
    """Healthy books without our tag that prove absence …"""
    absence_spacing: float = 30.0
    """… at least this far apart …"""
    absence_after: float = 120.0
    """… the last at least this long after the send deadline."""
    publish_timeout: float = 2.0
    publish_retry_longest: float = 30.0

    def scaled(self, factor: float) -> OrderDurations:
        """All of them divided by `factor`; what guards against a dead worker or holds an HTTP deadline (7 s) keeps a floor."""
        if factor == 1.0:
            return self
        floors = {
            "place_timeout": 9.0,
            "heartbeat": 2.0,
            "send_deadline": 1.5,
            "publish_timeout": 1.0,
            "pacer_wait": 1.0,
        }
        values = {
            name: value if name == "absence_books" else max(value / factor, floors.get(name, 0.02))
            for name, value in self.model_dump().items()
        }
        return OrderDurations(**values)
