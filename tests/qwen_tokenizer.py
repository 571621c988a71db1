"""A small byte-level BPE tokenizer with Qwen's cutting rules, special tokens and ids, for tests without a network."""

import json
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

SPECIAL_IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|image_pad|>": 151655,
    "<|mask|>": 151671,
}
PLAIN_ADDED = "<tool_call>"  # Qwen has added tokens that are not special
TEXTS = (
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "system user assistant What is this? A cat. Sure? the picture <image> <|im_end|>",
)


@cache
def _trained() -> dict:
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return json.loads(bpe.to_str())["model"]


def qwen_tokenizer() -> Qwen2Tokenizer:
    """About 400 tokens, and the special ones at the ids that the published configurations name."""
    model = _trained()
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"] | SPECIAL_IDS,
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_IDS),
    )
    tokenizer.add_tokens([PLAIN_ADDED])
    return tokenizer
