"""Many conversations put to a model at once, as every benchmark here does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..decoding import DecodingConfig
from ..decoding.generate import AnswerBuilder


def ask_conversations(
    model: Any, processor: Any, conversations: Sequence[list[dict[str, Any]]], config: DecodingConfig
) -> list[tuple[str, int, int]]:
    """Answer a batch of conversations.

    Args:
        model, processor: from `load_model`; a parent (enable_bd3lm False) answers autoregressively.
        conversations: chat messages, as the processor takes them.
        config: decoding settings.

    Returns:
        per conversation: the answer, its tokens (end included) and the denoising steps it took.

    Raises:
        ConversationError: for messages that can't be used.
    """
    inputs = processor.apply_chat_template(list(conversations)).to(model.device)
    builder = AnswerBuilder(len(conversations), config.max_new_tokens, model.config.mask_token_id)
    steps = [0] * len(conversations)
    for step in model.steps(dict(inputs), config):
        builder.add(step)
        steps = [count + active for count, active in zip(steps, step.active, strict=True)]
    results = []
    for row, count in enumerate(steps):
        ids, reason = builder.answer(row, model.eos_token_ids)
        text = processor.tokenizer.decode(ids, skip_special_tokens=True)
        results.append((text, len(ids) + (reason == "eos"), count))
    return results


def ask_model(
    model: Any, processor: Any, items: Sequence[tuple[Any, str]], config: DecodingConfig
) -> list[tuple[str, int, int]]:
    """`ask_conversations` for pairs of a PIL picture and a question."""
    return ask_conversations(model, processor, [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
        for image, question in items
    ], config)
