"""What a metric says when it cannot be computed."""


class MetricError(ValueError):
    """Images, weights or options do not allow a number; the message says what happened, and what to
    do about it."""

    exit_status = 2
