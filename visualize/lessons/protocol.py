"""The one message that the teaching page understands: a recorded run and what can be said about it."""

from __future__ import annotations

from typing import Any

from dvl_core.trace import DenoisingTrace

from .passes import forward_passes
from .tour import tour_stops

_UNUSED = ("candidates", "entropies", "attention")  # parts of a step that no lesson draws, and the heaviest


def lesson_message(trace: DenoisingTrace, data: dict[str, Any]) -> dict[str, Any]:
    """Everything the page draws, JSON-ready.

    Args:
        trace: the recorded run; its picture is shown where the trace holds a copy of it.
        data: what `dvl_core.lessons.lesson_data` computed for this trace.
    """
    record = trace.to_json()
    record["steps"] = [{name: step[name] for name in step if name not in _UNUSED} for step in record["steps"]]
    return {"trace": record, "passes": forward_passes(trace), "tour": tour_stops(trace), "lessons": data}
