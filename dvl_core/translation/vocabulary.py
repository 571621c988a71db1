"""The tokens that a translated model needs beyond its source's: found in the tokenizer, or added to it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..models.checkpoint import first_line
from ..models.configuration import IMAGE_TOKEN_ID, MASK_TOKEN_ID
from ..processing.conversation import TURN_END, TURN_START
from .config import TranslationError

MASK = "<|mask|>"
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that has every token needed.

    Attributes:
        tokenizer: with the tokens.
        mask_id, end_id: ids of the mask token and of the end of an answer.
        image_id: id of the token that holds a picture's place; None where the source's configuration names it.
        known: rows of the embedding that the source's own tokenizer uses.
        rows: rows of the embedding that are needed; more than the source has when it had none to spare.
        added: ids that the source's tokenizer did not have.
    """

    tokenizer: Any
    mask_id: int
    end_id: int
    image_id: int | None
    known: int
    rows: int
    added: tuple[int, ...]


def make_vocabulary(folder: Path, rows: int, mask_token: str | None, image_token: str | None) -> Vocabulary:
    """Find or add the mask token, and the picture's token where the source's configuration names none.

    An added token takes the id of the published checkpoints (`<|mask|>` 151671, `<|image_pad|>` 151655) where the
    source's vocabulary leaves that id free and its embedding has a row for it: Qwen's embeddings are padded beyond
    their vocabulary. Otherwise it takes the next free id, in a spare row if there is one, else in a new row.

    Args:
        folder: of the source.
        rows: rows of its embedding.
        mask_token: spelling; None for the tokenizer's own mask token, else `<|mask|>`.
        image_token: spelling of the picture's token to find or add; None when the source has one already.
    """
    tokenizer = read_tokenizer(folder)
    known = tokenizer.get_vocab()
    missing = [token for token in (TURN_START, TURN_END) if token not in known]
    if missing:
        raise TranslationError(f"The tokenizer of {folder} lacks {', '.join(missing)}; conversations need them.")
    mask = mask_token or tokenizer.mask_token or MASK
    wanted = {mask: MASK_TOKEN_ID} | ({image_token: IMAGE_TOKEN_ID} if image_token else {})
    added = choose_ids({token: at for token, at in wanted.items() if token not in known}, set(known.values()), rows)
    if added:
        tokenizer = _with_tokens(tokenizer, added)
    if tokenizer.mask_token != mask:
        tokenizer.mask_token = mask
    ids = tokenizer.get_vocab()
    return Vocabulary(
        tokenizer=tokenizer,
        mask_id=ids[mask],
        end_id=ids[TURN_END],
        image_id=ids[image_token] if image_token else None,
        known=min(rows, max(known.values()) + 1),
        rows=max(rows, *(at + 1 for at in added.values())) if added else rows,
        added=tuple(sorted(added.values())),
    )


def read_tokenizer(folder: Path) -> Any:
    """The source's tokenizer. Raises TranslationError when it has none.

    One that says it is its tokenizer.json and nothing more is taken at its word: for a Qwen2 model `AutoTokenizer`
    would put Qwen's way of splitting words in the place of the file's.
    """
    settings = folder / "tokenizer_config.json"
    try:
        said = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
        kind = PreTrainedTokenizerFast if said in _GENERIC else AutoTokenizer
        return kind.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TranslationError(f"{folder} has no tokenizer that can be read: {first_line(error)}") from error


def choose_ids(wanted: dict[str, int], used: set[int], rows: int) -> dict[str, int]:
    """An id for every token: the one wanted if it is free and has a row, else the next one."""
    chosen = {}
    for token, preferred in wanted.items():
        free = preferred < rows and preferred not in used
        chosen[token] = preferred if free else max(used) + 1
        used = used | {chosen[token]}
    return chosen


def _with_tokens(tokenizer: Any, added: dict[str, int]) -> Any:
    """The tokenizer with special tokens at these ids.

    Adding a token the usual way gives it the next id. Here the ids are written into the tokenizer's file, where
    added tokens keep an id only if the vocabulary names it, so those that are there already are named too.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise TranslationError("The source's tokenizer has no tokenizer.json, so that no token can be added.")
        data = json.loads(file.read_text(encoding="utf-8"))
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        data["added_tokens"] += [{"id": number, "content": token} | plain for token, number in added.items()]
        data["added_tokens"].sort(key=lambda entry: entry["id"])
        data["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in data["added_tokens"]}
        file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        made = AutoTokenizer.from_pretrained(folder)
    ids = made.get_vocab()
    moved = [token for token, number in (tokenizer.get_vocab() | added).items() if ids.get(token) != number]
    if moved:
        raise TranslationError(f"The tokenizer gives {', '.join(moved[:8])} another id once a token is added.")
    return made
