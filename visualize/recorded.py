"""Measurements that were recorded in a file: what the page says of where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recorded_with(measured: Mapping[str, Any]) -> dict[str, str]:
    """Model, machine and question of a file that `dvl_core.race` or `dvl_core.explore` has written.

    Raises:
        KeyError: for a file of another kind.
    """
    machine = measured["machine"].get("gpu") or measured["machine"]["processor"]
    return {"model": measured["model"], "machine": machine, "question": measured["question"]}
