"""Exact match of a model on an exam, through the processor and decoder of inference."""

from __future__ import annotations

import time
from typing import Any

from ..decoding import DecodingConfig
from ..evaluation.asking import ask_model
from .exams import Exam


def score(model: Any, processor: Any, exam: Exam, diffusion: bool, config: DecodingConfig,
          batch: int = 64) -> dict[str, Any]:
    """Exact match per task and on the average.

    Args:
        model, processor: of one checkpoint.
        exam: what to ask, see `exams`.
        diffusion: decode by block diffusion; otherwise token by token, left to right.
        config: decoding settings.
        batch: questions answered at once.

    Returns:
        accuracy: mean over tasks; tasks: exact match by task; questions: of all tasks; tokens_per_forward: answer
        tokens (their end included) per forward pass of the answer, each answer counted by itself; seconds: wall-clock
        time of decoding, prompts included; processor_seconds: the processor time of it, over all threads, which
        other work on the machine does not lengthen; tokens_per_processor_second;
        parameters: of the model.
    """
    was = model.config.enable_bd3lm
    model.config.enable_bd3lm = diffusion
    began, began_processor = time.perf_counter(), time.process_time()
    tasks, tokens, forwards = {}, 0, 0
    for task, items in exam.items():
        right = 0
        for start in range(0, len(items), batch):
            some = items[start : start + batch]
            answers = ask_model(model, processor, [(picture, question) for picture, question, _ in some], config)
            right += sum(given == wanted for (given, _, _), (_, _, wanted) in zip(answers, some, strict=True))
            tokens += sum(count for _, count, _ in answers)
            forwards += sum(steps for _, _, steps in answers)
        tasks[task] = right / len(items)
    model.config.enable_bd3lm = was
    seconds, processor = time.perf_counter() - began, time.process_time() - began_processor
    return {"accuracy": sum(tasks.values()) / len(tasks), "tasks": tasks,
            "questions": sum(len(items) for items in exam.values()), "tokens_per_forward": tokens / forwards,
            "seconds": seconds, "processor_seconds": processor, "tokens_per_processor_second": tokens / processor,
            "parameters": sum(weight.numel() for weight in model.parameters())}
