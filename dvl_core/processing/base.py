"""What the processors of both families share: a conversation (or a batch of them) to model inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .conversation import (
    PICTURE,
    PICTURE_LINE,
    ConversationError,
    Piece,
    SafeEncoder,
    check_length,
    parse_messages,
    render_pieces,
    rendered_text,
    split_rendered,
)
from .images import ImageLimits, open_image


class ChatProcessor(ProcessorMixin, ABC):
    """Conversation and pictures to `input_ids`, `attention_mask` and the pictures' tensors.

    A family says how its pictures become tensors (`process_pictures`) and how many tokens each one takes
    (`picture_lengths`); a picture's tokens all have the id `image_token_id`.
    """

    image_limits = ImageLimits()
    picture_pieces = PICTURE_LINE  # how the family's prompts write a picture

    def _set_options(self, system_prompt: str | None, image_token: str, max_prompt_tokens: int) -> None:
        if system_prompt is not None and not isinstance(system_prompt, str):
            raise ValueError(f"system_prompt is {system_prompt!r}, it must be text or None")
        if not isinstance(max_prompt_tokens, int) or max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens is {max_prompt_tokens!r}, it must be a positive whole number")
        self.system_prompt = system_prompt
        self.image_token = image_token
        self.max_prompt_tokens = max_prompt_tokens
        self._encoder = SafeEncoder(self.tokenizer)
        if image_token not in self._encoder.controls:
            raise ValueError(f"the tokenizer lacks the special token {image_token}, which holds a picture's place")
        for piece in self.picture_pieces:
            if piece.kind == "control" and piece.text not in self._encoder.controls:
                raise ValueError(f"the tokenizer lacks the special token {piece.text}, which stands beside a picture")
        self.image_token_id = self._encoder.controls[image_token]

    @abstractmethod
    def process_pictures(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """Tensors of at least one upright RGB picture, as numpy arrays by input name."""

    @abstractmethod
    def picture_lengths(self, features: dict[str, Any], pictures: list[Image.Image]) -> list[int]:
        """How many tokens each picture takes, given what `process_pictures` returned."""

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        padding: bool = True,
        max_length: int | None = None,
        return_assistant_tokens_mask: bool = False,
    ) -> str | list[str] | BatchFeature | Any:
        """Model inputs of one conversation, or of a batch of them padded on the right.

        Args:
            conversation: messages (see `conversation.parse_messages`), or a list of such conversations.
            add_generation_prompt: end with the header of the answer; False to encode finished conversations.
            tokenize: False returns the rendered string (a list of them for a batch), with `<image>` for a picture.
            return_dict: False returns the `input_ids` alone.
            return_tensors: "pt", "np", or None for lists.
            padding: pad a batch to its longest row; `attention_mask` is 0 there.
            max_length: longest prompt accepted, `max_prompt_tokens` when None.
            return_assistant_tokens_mask: add `assistant_masks`, 1 on the tokens the model is to write (answers and
                the end of their turns).

        Returns:
            `input_ids` and `attention_mask` [B, L], and what `process_pictures` gives for all pictures of the batch.

        Raises:
            ConversationError: messages that make no prompt, or one beyond the longest.
            ImageError: a picture that can't be used.
        """
        batched = _is_batch(conversation)
        parsed = [parse_messages(messages) for messages in (conversation if batched else [conversation])]
        settings = (self.system_prompt, add_generation_prompt, self.picture_pieces)
        rows = [render_pieces(turns, *settings) for turns in parsed]
        if not tokenize:
            texts = [rendered_text(row) for row in rows]
            return texts if batched else texts[0]
        sources = [[picture for turn in turns for picture in turn.pictures] for turns in parsed]
        return self._encode_rows(
            rows, sources, return_dict, return_tensors, padding, max_length, return_assistant_tokens_mask
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool = True,
        return_tensors: str | None = "pt",
        max_length: int | None = None,
    ) -> BatchFeature:
        """Model inputs of rendered prompts.

        A rendered prompt (from `apply_chat_template(..., tokenize=False)`) is trusted: control tokens spelled in it
        are control tokens, and every `<image>` is a picture's place. What people typed belongs in
        `apply_chat_template`.

        Args:
            images: one picture, a list of them in the order of their places, or one list per prompt.
            text: a prompt or a list of them.
            padding, return_tensors, max_length: as in `apply_chat_template`.
        """
        texts = [text] if isinstance(text, str) else list(text or ())
        if not texts or not all(isinstance(prompt, str) and prompt for prompt in texts):
            raise ConversationError("The prompt is empty: give text.")
        controls = [token for token in self._encoder.controls if token != self.image_token]
        rows = [split_rendered(prompt, controls, (PICTURE, self.image_token)) for prompt in texts]
        sources = _deal_pictures(images, [sum(p.kind == "picture" for p in row) for row in rows])
        return self._encode_rows(rows, sources, True, return_tensors, padding, max_length, False)

    def _encode_rows(
        self,
        rows: list[list[Piece]],
        sources: list[list[Any]],
        return_dict: bool,
        return_tensors: str | None,
        padding: bool,
        max_length: int | None,
        with_answers: bool,
    ) -> BatchFeature | Any:
        flat = [source for row in sources for source in row]
        if any(source is None for source in flat):
            raise ConversationError('A picture is missing: give it as {"type": "image", "image": ...}.')
        pictures = [open_image(source, self.image_limits) for source in flat]
        features = self.process_pictures(pictures) if pictures else {}
        lengths = iter(self.picture_lengths(features, pictures) if pictures else ())
        encoded = []
        for row, row_sources in zip(rows, sources, strict=True):
            row_lengths = [next(lengths) for _ in row_sources]
            encoded.append(self._encoder.encode(row, self.image_token_id, row_lengths))
            check_length(len(encoded[-1][0]), sum(row_lengths), max_length or self.max_prompt_tokens)
        data = self._padded(encoded, padding, with_answers)
        inputs = BatchFeature(data | features, tensor_type=return_tensors)
        return inputs if return_dict else inputs["input_ids"]

    def _padded(self, encoded: list[tuple[list[int], list[int]]], padding: bool, with_answers: bool) -> dict:
        """Rows of ids, masks of what is real, and masks of what is answer, all padded on the right."""
        longest = max(len(ids) for ids, _ in encoded) if padding else 0
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            pad_id = self.tokenizer.eos_token_id or 0
        data: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
        if with_answers:
            data["assistant_masks"] = []
        for ids, answer in encoded:
            missing = max(longest - len(ids), 0)
            data["input_ids"].append(ids + [pad_id] * missing)
            data["attention_mask"].append([1] * len(ids) + [0] * missing)
            if with_answers:
                data["assistant_masks"].append(answer + [0] * missing)
        return data


def _is_batch(conversation: Any) -> bool:
    if not isinstance(conversation, Sequence) or isinstance(conversation, str | bytes):
        raise ConversationError(f"A conversation is a list of messages, not {type(conversation).__name__}.")
    if not conversation:
        raise ConversationError("The conversation is empty: ask a question.")
    return not isinstance(conversation[0], Mapping)


def _deal_pictures(images: Any, places: list[int]) -> list[list[Any]]:
    """The pictures of each prompt, given one picture, a flat list, or a list per prompt."""
    if images is None:
        images = []
    elif isinstance(images, str | bytes | Image.Image | np.ndarray) or not isinstance(images, Sequence):
        images = [images]
    if images and all(isinstance(group, list | tuple) for group in images):
        dealt = [list(group) for group in images]
    else:
        rest = iter(images)
        dealt = [[picture for _, picture in zip(range(count), rest, strict=False)] for count in places]
        dealt[-1].extend(rest)
    if [len(group) for group in dealt] != places:
        raise ConversationError(
            f"The prompts have {places} places for pictures ({PICTURE}) and {[len(group) for group in dealt]} "
            "pictures were given: they must agree."
        )
    return dealt
