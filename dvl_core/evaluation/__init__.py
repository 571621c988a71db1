"""Benchmarks: exact match on TinyWorld."""

from .tinyworld import TaskScore, evaluate, evaluate_task, mean_exact

__all__ = ["TaskScore", "evaluate", "evaluate_task", "mean_exact"]
