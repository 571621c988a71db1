"""The bundled model's tokenizer: small enough to watch.

TinyWorld's own words are single tokens; every other piece of text is spelt, one token per byte: so a character of the
picture is a token of the answer, and any text can be written. Nothing is ever merged from parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .world import TASKS, sample, task_sample

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MASK, PICTURE = "<|mask|>", "<|image_pad|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END, MASK, PICTURE)
# As long as it takes for the picture to end a whole number of blocks.
SYSTEM_PROMPT = "Answer questions about the picture you see"

# One piece per: word with its leading space, digit, table rule, sign, newline.
_PIECES = r" ?[A-Za-z]+|[0-9]|[|](?:---[|])+| ?[^\sA-Za-z0-9]|\n|\s"
_QUOTED = re.compile(r'("[^"]*")')
_OFTEN = 8  # a piece that occurs less often in the texts is spelt


def _corpus(samples: int) -> list[str]:
    """Questions and answers, without what they quote from pictures."""
    texts = []
    for seed in range(samples):
        for turns in sample("train", seed).conversations:
            texts += [text for turn in turns for text in turn]
        for task in TASKS:
            texts += task_sample(task, "train", seed)[1:]
    return [_QUOTED.sub("", text) for text in texts]


def build_tokenizer(samples: int = 1500) -> PreTrainedTokenizerFast:
    """Collect TinyWorld's words and make the tokenizer (deterministic, a few seconds).

    Args:
        samples: how many training seeds the texts come from.
    """
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = pre_tokenizers.Sequence([split, bytes_of])
    counts = Counter(piece for text in _corpus(samples) for piece, _ in pieces.pre_tokenize_str(text))
    always = [piece for text in ("user", "assistant", "system", SYSTEM_PROMPT) for piece, _ in
              pieces.pre_tokenize_str(text)]
    words = sorted({*always, *(piece for piece, count in counts.items() if count >= _OFTEN)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*SPECIALS, *alphabet, *words])
    bpe = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], ignore_merges=True))
    bpe.pre_tokenizer = pieces
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        additional_special_tokens=[TURN_START, PICTURE],
        clean_up_tokenization_spaces=False,
    )


def answer_encoder(tokenizer) -> Callable[[str], list[int]]:
    """How answers are tokenized in training: what stands in quotes is spelt, known word or not.

    The model reads characters, so its answers are characters; and text decodes to the same string either way.
    """
    spelt = {chr(i): tokenizer(chr(i), add_special_tokens=False).input_ids for i in range(32, 127)}

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for part in _QUOTED.split(text):
            if part.startswith('"'):
                for character in part:
                    ids += spelt.get(character) or tokenizer(character, add_special_tokens=False).input_ids
            elif part:
                ids += tokenizer(part, add_special_tokens=False).input_ids
        return ids

    return encode
