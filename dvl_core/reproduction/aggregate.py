"""Rows of several seeds to mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for a single value) and the values themselves.

    Raises:
        ValueError: if there are none.
    """
    if not values:
        raise ValueError("values=[] must hold at least one number")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread, "values": list(values)}


def across(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of every seed to one row, of the fields that all have: numbers become their `summary`, mappings are gone
    through, and what is no number is taken from the first seed."""
    merged: dict[str, Any] = {}
    for name, value in rows[0].items():
        if not all(name in row for row in rows):
            continue
        every = [row[name] for row in rows]
        if isinstance(value, Mapping) and name != "decoding":
            merged[name] = across(every)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            merged[name] = summary(every)
        else:
            merged[name] = value
    return merged


def experiment(seeds: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Seed -> row name -> row, to row name -> merged row; every seed has the same rows."""
    return {name: across([rows[name] for rows in seeds.values()]) for name in next(iter(seeds.values()))}


def ratios(above: Mapping[str, Any], below: Mapping[str, Any], field: str = "accuracy") -> dict[str, Any]:
    """`summary` of one merged row's values over another's, seed by seed; 0 where the other's is 0."""
    return summary([a / b if b else 0.0 for a, b in _pairs(above, below, field)])


def differences(left: Mapping[str, Any], right: Mapping[str, Any], field: str = "accuracy") -> dict[str, Any]:
    """`summary` of one merged row's values minus another's, seed by seed."""
    return summary([a - b for a, b in _pairs(left, right, field)])


def _pairs(left: Mapping[str, Any], right: Mapping[str, Any], field: str) -> list[tuple[float, float]]:
    return list(zip(left[field]["values"], right[field]["values"], strict=True))
