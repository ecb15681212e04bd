"""The pages there are, in the order of the menu. A new page is a module with a `PAGE`, and a line here."""

from __future__ import annotations

from api.pages import (
    alerts,
    audit,
    charts,
    order,
    orders,
    positions,
    risk,
    signals,
    strategies,
    streams,
    today,
    users,
)
from api.pages.page import Page

PAGES: tuple[Page, ...] = (
    today.PAGE,
    orders.PAGE,
    order.PAGE,
    signals.PAGE,
    positions.PAGE,
    charts.PAGE,
    strategies.PAGE,
    risk.PAGE,
    streams.PAGE,
    alerts.PAGE,
    audit.PAGE,
    users.PAGE,
)
