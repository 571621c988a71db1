"""Exact match of a model on unseen pictures of the small world, through the processor and decoder of inference."""

from __future__ import annotations

import time
from typing import Any

from ..decoding import DecodingConfig
from ..evaluation.tinyworld import ask_model
from ..tinyworld.drawing import draw
from ..tinyworld.pictures import CANVAS
from .world import TASKS, test_item

LONGEST = 64  # tokens of an answer
BATCH = 64


def score(model: Any, processor: Any, questions: int, seed: int, diffusion: bool, steps: int = 8) -> dict[str, Any]:
    """Exact match per task and on the average.

    Args:
        model, processor: from `small`.
        questions: per task.
        seed: which test pictures.
        diffusion: decode by block diffusion; otherwise token by token.
        steps: denoising steps per block.

    Returns:
        accuracy, its parts by task, answer tokens per forward, seconds.
    """
    began, tasks, tokens, taken = time.perf_counter(), {}, 0, 0
    model.config.enable_bd3lm = diffusion
    settings = DecodingConfig(max_new_tokens=LONGEST, steps=steps)
    for task in TASKS:
        right = 0
        for start in range(0, questions, BATCH):
            items = [test_item(task, seed * 100_000 + i) for i in range(start, min(start + BATCH, questions))]
            asked = [(draw(picture, CANVAS), question) for picture, question, _ in items]
            answers = ask_model(model, processor, asked, settings)
            right += sum(given == wanted for (given, _, _), (_, _, wanted) in zip(answers, items, strict=True))
            tokens += sum(count for _, count, _ in answers)
            taken += sum(steps_taken for _, _, steps_taken in answers)
        tasks[task] = right / questions
    return {"accuracy": sum(tasks.values()) / len(tasks), "tasks": tasks, "tokens_per_forward": tokens / taken,
            "score_seconds": time.perf_counter() - began}
