"""Made-up runs that exports have to cope with: observed, branched, hostile; no model, no torch."""

from __future__ import annotations

import base64
import io
import random

import numpy as np
from PIL import Image
from traces import END, made_up_trace

from dvl_core.trace import DenoisingTrace, TraceImage, TraceStep
from visualize.export import format_of

HOSTILE = "<img src=x onerror=window.hacked=1></script> ${window.hacked=2} {{constructor}} <b>bold</b> <!-- &amp; $x^2$"
HOSTILE_PIECES = [
    "<img src=x onerror=window.hacked=3>", "</script>", "\x00\x07", "\u2028", " $x_1$", "=SUM(A1)", "\n", "  in",
    "السلام", "🧑‍🚀", "中文，句子。", "é", b"\xff", b"\xf0\x9f", "W" * 120, "\ufffe", "<!--", "'quoted'",
    "\t@x", "-1+2",
]  # fmt: skip


def picture(width=448, height=336) -> TraceImage:
    """A picture of noise: nothing compresses worse."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG", quality=88)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return TraceImage(width, height, [12, 16], [0, 0, width, height], "ab", data)


def observed(trace: DenoisingTrace, patches: int = 0, candidates: int = 5) -> DenoisingTrace:
    """The trace with candidates, entropies and, where there are `patches`, attention, as precise as it is recorded."""
    rng = random.Random(1)
    ids = list(trace.vocabulary)
    for step in trace.steps:
        step.candidates = [
            [[proposal, sure], *([rng.choice(ids), round(rng.random(), 5)] for _ in range(candidates - 1))]
            for proposal, sure in zip(step.proposals, step.confidences, strict=True)
        ]
        step.entropies = [round(3 * (1 - sure), 5) for sure in step.confidences]
        if patches:
            rows = ([rng.random() ** 8 for _ in range(patches)] for _ in step.masked)
            step.attention = {"27": [[round(w / sum(row), 5) for w in row] for row in rows]}
    return trace


def branched_trace() -> DenoisingTrace:
    """A run that was left after 12 steps: one token masked again, one set by a person, then blocks of 16."""
    first = observed(made_up_trace(length=64, block_size=8, steps=8))
    canvas = first.canvas(12)
    settings = first.settings | {"block_size": 16, "steps": 4}
    trace = first.branch("parent", 12, {2: None, 5: canvas[0]}, settings)
    answer, rng, forwards = first.canvas(), random.Random(4), first.steps[11].forwards
    after = trace.canvas(12)
    after[2], after[5] = None, canvas[0]
    for block, start in enumerate((0, 16, 32)):
        masked = [p for p in range(start, start + 16) if after[p] is None]
        for step in range(4):
            chosen = masked if step == 3 else masked[: -(-len(masked) // 2)]
            forwards += 1
            confidences = [round(rng.random(), 4) for _ in masked]
            proposals = [answer[p] if answer[p] is not None else END for p in masked]
            span = [start, start + 16]
            trace.steps.append(TraceStep(block, step, span, masked, proposals, confidences, chosen, 5.0, forwards))
            masked = [p for p in masked if p not in chosen]
            if not masked:
                break
    trace.finish_reason = "eos"
    return DenoisingTrace.from_json(trace.to_json())


def hostile_trace() -> DenoisingTrace:
    trace = made_up_trace(HOSTILE_PIECES * 2, 48, 8, 4, seed=3, finish="length")
    trace.prompt["messages"] = [{"role": "user", "text": HOSTILE + " 猫 \x00 \ud800"}]
    trace.model["name"], trace.settings["strategy"] = "</title><b>$a_b$", "</script>"
    return trace


def written(name: str, trace: DenoisingTrace, mode: str = "light") -> bytes:
    """The file called `name` that `trace` becomes."""
    return format_of(name).make(trace, mode)
