"""Learning rate over a run, as a share of its peak."""

from __future__ import annotations

import math

from .config import ScheduleConfig


def rate_factor(step: int, total: int, schedule: ScheduleConfig) -> float:
    """Share of the peak rate at update `step` (from 0) of `total`: warm-up, plateau, decay.

    The rate is above 0 at the first update and reaches the floor after the last one.
    """
    done = step / total
    if step < schedule.warmup * total:
        return (step + 1) / (schedule.warmup * total + 1)
    start = max(schedule.warmup, schedule.hold)
    if schedule.decay == "constant" or done <= start:
        return 1.0
    share = (done - start) / (1 - start)
    fall = 1 - share if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return schedule.floor + (1 - schedule.floor) * fall
