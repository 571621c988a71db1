"""What the teaching page needs of the training code, as plain data about one recorded run.

The page draws, it does not compute: which tokens noise hides, and who may look at whom, come from the functions that
the model is trained with, so that the figures can't drift away from the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .decoding.masks import block_causal_mask
from .trace import DenoisingTrace
from .training.answers import noisy_positions
from .training.data import StageData
from .training.masks import block_diffusion_mask
from .training.noise import noise_levels
from .training.objective import IGNORE

# Why a token may look at another (the first three, which are the parts of the training mask) or may not.
KINDS = ("within", "back", "finished", "solution", "ahead", "other", "noise", "later")
WITHIN, BACK, FINISHED, SOLUTION, AHEAD, OTHER, NOISE, LATER = range(len(KINDS))
LONGEST = 512  # answer tokens that the page shows under noise
_DIGITS = 4
_EDGE = 16  # matrices end where blocks of every size up to this end, so that no block is cut
_BEFORE, _AFTER = 5, 17  # least number of prompt and answer tokens in a matrix


def lesson_data(
    trace: DenoisingTrace, block_sizes: Iterable[int] = (1, 4, 8, 16), draws: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Everything of the teaching page that the training code decides, JSON-ready.

    Args:
        trace: the recorded run. Its answer counts up to the first place that was never revealed.
        block_sizes: of the training masks to show.
        draws: how many times noise is drawn.
        seed: of the draws.

    Returns:
        `caption`: what training would learn from the answer, `{ids, block_size, tail}`; see `caption_of`.
        `noise`: `{lowest, lowest_published, draws: [{uniform, levels}]}`, see `noise_draws`; None without an answer.
        `masks`: `{kinds, prompt, sizes: [...]}`, see `mask_rows`; None without an answer.
    """
    caption, known = caption_of(trace)
    data: dict[str, Any] = {"caption": caption, "noise": None, "masks": None}
    if caption["ids"]:
        published = inspect.signature(noise_levels).parameters["low"].default
        drawn = noise_draws(len(caption["ids"]), caption["tail"], caption["block_size"], draws, seed)
        data["noise"] = {"lowest": StageData.lowest_noise, "lowest_published": published, "draws": drawn}
        prompt = trace.prompt_tokens
        sizes = [mask_rows(prompt, known, size) for size in block_sizes]
        data["masks"] = {"kinds": list(KINDS), "prompt": prompt, "sizes": sizes}
    return data


def caption_of(trace: DenoisingTrace) -> tuple[dict[str, Any], int]:
    """The answer as training sees it: with end tokens up to the end of a block ("block-aligned EOS").

    Returns:
        `{ids, block_size, tail}`: the ids; tokens per block; how many tokens of the prompt share the first block.
        And the number of `ids` without that padding. An answer that never came to its end is not padded.
    """
    size = max(1, int(trace.settings.get("block_size") or 1))
    ends, ids = set(trace.model.get("eos_token_ids", [])), []
    for token in trace.canvas():
        if token is None or (ids and ids[-1] in ends) or len(ids) == LONGEST:
            break
        ids.append(token)
    known, prompt = len(ids), trace.prompt_tokens
    if ids and ids[-1] in ends:
        ids += [ids[-1]] * (-(prompt + known) % size)
    return {"ids": ids, "block_size": size, "tail": prompt % size}, known


def noise_draws(length: int, tail: int, block_size: int, draws: int, seed: int) -> list[dict[str, list[float]]]:
    """The random numbers of `draws` noisy copies of one answer, rounded to the digits that they are shown with.

    A token is hidden where its number is at most the mask ratio t (`dvl_core.training.noise.masked_positions`), so
    that a larger t hides the same tokens and more.

    Returns:
        per draw `uniform`, one number per token, and `levels`, the t that every block draws for itself: evenly
        spread and dealt out at random, as `dvl_core.training.data` does.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-(tail + length) // block_size)
    made = []
    for _ in range(draws):
        uniform = torch.rand(length, generator=generator)
        levels = noise_levels(torch.rand(1, blocks, generator=generator), StageData.lowest_noise)[0]
        levels = levels[torch.randperm(blocks, generator=generator)]
        made.append({"uniform": _rounded(uniform), "levels": _rounded(levels)})
    return made


def mask_rows(prompt: int, answer: int, block_size: int) -> dict[str, Any]:
    """The training mask around the beginning of the answer, and what decoding keeps of it.

    Rows and columns are the end of the prompt and the beginning of the answer in the finished copy, then the noisy
    copy of those blocks that hold answer tokens, which is the layout of `dvl_core.training.answers`.

    Args:
        prompt, answer: tokens of the prompt and of the answer.
        block_size: tokens per block.

    Returns:
        `block_size`; `noisy`: index of the first noisy row; per row `positions` (from the beginning of the prompt)
        and `blocks` (1 = the block with the first answer token, 0 and less before it); `rows`: per row the runs
        `[kind, count, kind, count, ...]`, a kind being an index into `KINDS`; and `decoding`: the same for the
        finished copy alone, from the mask of inference.
    """
    first = max(0, (prompt - _BEFORE) // 8 * 8)
    end = min(_up(prompt + _AFTER, _EDGE), _up(prompt + answer, block_size))
    labels = torch.full((1, end), IGNORE)
    labels[:, prompt:] = 0
    noisy_at = noisy_positions(labels, block_size)[0][0]
    clean_at = torch.arange(first, end)
    positions = torch.cat([clean_at, noisy_at])
    noisy = torch.arange(len(positions)) >= len(clean_at)
    blocks = positions // block_size
    training = _kinds(block_diffusion_mask(blocks, noisy), blocks, noisy)
    base = first // block_size * block_size  # a shift by whole blocks leaves the mask as it is
    inference = block_causal_mask(end - base, block_size)[first - base :, first - base :]
    decoding = _kinds(inference, clean_at // block_size, noisy[: len(clean_at)])
    return {
        "block_size": block_size,
        "noisy": len(clean_at),
        "positions": positions.tolist(),
        "blocks": (blocks - prompt // block_size + 1).tolist(),
        "rows": [run_lengths(row) for row in training.tolist()],
        "decoding": [run_lengths(row) for row in decoding.tolist()],
    }


def run_lengths(row: list[int]) -> list[int]:
    """`[1, 1, 3]` -> `[1, 2, 3, 1]`: value, how often, value, how often."""
    return [number for value, run in groupby(row) for number in (value, sum(1 for _ in run))]


def _kinds(allowed: Tensor, block: Tensor, noisy: Tensor) -> Tensor:
    """Index into `KINDS` of every pair, [L, L]. Who is allowed is given; this only says for which reason."""
    q_noisy, k_noisy, ahead = noisy[:, None], noisy[None, :], block[None, :] > block[:, None]
    to_clean = torch.where(ahead, AHEAD, SOLUTION)
    permitted = torch.where(q_noisy, torch.where(k_noisy, WITHIN, BACK), FINISHED)
    denied = torch.where(q_noisy, torch.where(k_noisy, OTHER, to_clean), torch.where(k_noisy, NOISE, LATER))
    return torch.where(allowed, permitted, denied)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _rounded(values: Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]
