"""Benchmarks: exact match on TinyWorld, right answers about a folder of anybody's pictures, public ones (`lmms`)."""

from .pictures import PictureScore, Question, evaluate_pictures, load_questions, share_right
from .tinyworld import TaskScore, evaluate, evaluate_task, mean_exact

__all__ = [
    "PictureScore", "Question", "TaskScore", "evaluate", "evaluate_pictures", "evaluate_task", "load_questions",
    "mean_exact", "share_right",
]
