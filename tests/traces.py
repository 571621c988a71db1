"""Made-up runs for tests of what is drawn: no model, no torch."""

from __future__ import annotations

import random

from dvl_core.trace import DenoisingTrace, TraceStep

MASK, END = 9001, 9002
# A caption with line breaks, and characters that are spread over several tokens.
PIECES = [
    "The",
    " picture",
    " shows",
    " two",
    " shapes",
    ":",
    "\n",
    " a",
    " small",
    " red",
    " circle",
    " at",
    " the",
    " top",
    " left",
    ",",
    "\n",
    " a",
    " large",
    " blue",
    " square",
    " below",
    " it",
    " and",
    " the",
    " word",
    " ",
    b"\xe7\x8c",
    b"\xab",
    " ",
    b"\xf0\x9f",
    b"\x98",
    b"\x80",
    ".",
]


def token_table(pieces=PIECES) -> tuple[list[int], dict[int, bytes]]:
    """Ids of `pieces` and the vocabulary that turns them back."""
    table: dict[bytes, int] = {}
    ids = []
    for piece in pieces:
        raw = piece if isinstance(piece, bytes) else piece.encode()
        ids.append(table.setdefault(raw, 100 + len(table)))
    return ids, {token: raw for raw, token in table.items()} | {END: b"<|im_end|>"}


def made_up_trace(
    pieces=PIECES,
    length: int = 64,
    block_size: int = 8,
    steps: int = 8,
    seed: int = 0,
    finish: str = "eos",
    cut: int | None = None,
) -> DenoisingTrace:
    """A run that reveals `pieces` block by block, in an order and with confidences drawn from `seed`.

    `cut` keeps only that many steps, as when a person stopped it.
    """
    rng = random.Random(seed)
    ids, vocabulary = token_table(pieces)
    answer = (ids + [END] * length)[:length]
    trace = DenoisingTrace(
        model={
            "name": "made-up",
            "family": "test",
            "kind": "block_diffusion",
            "mask_token_id": MASK,
            "eos_token_ids": [END],
            "device": "cpu",
            "dtype": "float32",
        },
        settings={
            "block_size": block_size,
            "steps": steps,
            "max_new_tokens": length,
            "strategy": "low_confidence_static",
        },
        prompt={"messages": [{"role": "user", "text": "What is in the picture?"}], "num_tokens": 70},
        length=length,
        vocabulary=vocabulary,
        prefill_milliseconds=12.5,
        finish_reason=finish,
    )
    forwards = 1
    for block, start in enumerate(range(0, length, block_size)):
        masked = list(range(start, min(start + block_size, length)))
        share = -(-len(masked) // steps)
        step = 0
        while masked:
            certainty = {p: min(0.999, 0.35 + 0.11 * step + rng.random() * 0.6) for p in masked}
            chosen = sorted(sorted(masked, key=certainty.get)[-share:])
            forwards += 1
            trace.steps.append(
                TraceStep(
                    block,
                    step,
                    [start, min(start + block_size, length)],
                    masked,
                    [answer[p] for p in masked],
                    [round(certainty[p], 4) for p in masked],
                    chosen,
                    9.0 + rng.random(),
                    forwards,
                )
            )
            masked = [p for p in masked if p not in chosen]
            step += 1
        if END in answer[start : start + block_size]:
            break
    trace.steps = trace.steps[:cut]
    return trace
