"""How an activity says "try me again": this try has sent nothing, and nobody need look at it.

Never raised by the try that may have sent something: what it knows is journalled, and it answers.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory


def again(kind: str, message: str, seconds: float | None = None) -> ApplicationError:
    """Temporal tries the activity again, after `seconds` or by its own growing intervals."""
    delay = None if seconds is None else timedelta(seconds=seconds)
    return ApplicationError(message, type=kind, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN)
