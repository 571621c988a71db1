"""The bundled model's tokenizer: a byte-level BPE small enough to watch.

Every byte is a token, so any text can be written; TinyWorld's own words are single tokens; every digit and every
capital that stands alone is its own token, so that a character of the picture is a token of the answer.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .world import TASKS, sample, task_sample

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MASK, PICTURE = "<|mask|>", "<|image_pad|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END, MASK, PICTURE)
VOCABULARY = 768

# One piece per: article, word with its leading space, digit, lone capital, table rule, sign, newline.
_PIECES = r" A(?= [a-z])| ?[A-Z]?[a-z]+|[0-9]|[A-Z]|[|](?:---[|])+| ?[^\sA-Za-z0-9]|\n|\s"


def _corpus(samples: int) -> list[str]:
    texts = ["user", "assistant", "system"] * 1000
    for seed in range(samples):
        for turns in sample("train", seed).conversations:
            for question, answer in turns:
                texts += [question, "\n" + answer]
        for task in TASKS:
            texts += task_sample(task, "train", seed)[1:]
    return texts


def build_tokenizer(samples: int = 2000, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the tokenizer on TinyWorld's own texts (deterministic, under a second).

    Args:
        samples: how many training seeds the texts come from.
        vocabulary: largest number of tokens, specials included; at least 256 bytes + 5 specials.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=5,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(samples), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        additional_special_tokens=[TURN_START, PICTURE],
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer and write its files into `folder`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer
