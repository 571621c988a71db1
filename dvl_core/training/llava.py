"""LLaVA-style files (id, image, conversations) as chat messages, read one sample at a time.

A file is scanned once for where its samples begin and end; after that a sample is read from disk when it is needed,
so a set of any size takes 16 bytes a sample.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .settings import ConfigError

PLACE = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_CHUNK = 1 << 24  # bytes read at once while scanning


class SampleError(ValueError):
    """A sample that can't be trained on; the message says why."""


class LlavaSamples:
    """The samples of JSON (one array) and JSONL files.

    Args:
        files: their paths.
        image_folder: what image paths are relative to.

    Raises:
        ConfigError: for a file that is missing or holds no samples.
    """

    def __init__(self, files: tuple[str, ...], image_folder: str = "") -> None:
        self.files = [Path(file).expanduser() for file in files]
        self.folder = Path(image_folder).expanduser()
        if image_folder and not self.folder.is_dir():
            raise ConfigError("data.image_folder", image_folder, "is no folder")
        self.spans = [_spans(file) for file in self.files]
        self.starts = np.cumsum([0, *(len(spans) for spans in self.spans)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def messages(self, index: int) -> list[dict[str, Any]]:
        """Sample `index` as chat messages, pictures as paths. Raises SampleError."""
        return to_messages(self.read(index), self.folder)

    def name(self, index: int) -> str:
        """What to call a sample in a log: its id, or its file and number."""
        try:
            name = self.read(index).get("id")
        except SampleError:
            name = None
        if name is not None:
            return str(name)
        return f"{self.files[self._file(index)].name} #{index - self.starts[self._file(index)]}"

    def read(self, index: int) -> dict[str, Any]:
        """The raw sample. Raises SampleError when it is no object."""
        file = self._file(index)
        begin, end = self.spans[file][index - self.starts[file]]
        with self.files[file].open("rb") as stream:
            stream.seek(int(begin))
            text = stream.read(int(end - begin))
        try:
            sample = json.loads(text)
        except ValueError as error:
            raise SampleError(f"is not valid JSON ({error})") from error
        if not isinstance(sample, dict):
            raise SampleError(f"is {type(sample).__name__}, not an object")
        return sample

    def _file(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1


def to_messages(sample: dict[str, Any], folder: Path = Path()) -> list[dict[str, Any]]:
    """A LLaVA sample as chat messages.

    Every `<image>` takes the next picture; pictures without a place go to the first question. Turns must alternate,
    after an optional system turn, and end with an answer; an unanswered last question is dropped.

    Raises:
        SampleError: saying what is wrong with it.
    """
    turns = sample.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise SampleError("has no conversations")
    pictures = sample.get("image") or []
    pictures = [pictures] if isinstance(pictures, str) else pictures
    if not isinstance(pictures, list) or not all(isinstance(picture, str) for picture in pictures):
        raise SampleError("has an image that is no path and no list of paths")
    texts = []
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("from", "value")) \
                or turn["from"] not in ROLES:
            raise SampleError('has a turn that is not {"from": human or gpt, "value": text}')
        texts.append((ROLES[turn["from"]], turn["value"]))
    while texts and texts[-1][0] != "assistant":
        texts.pop()
    _check_order([role for role, _ in texts])
    places = [text.count(PLACE) if role == "user" else 0 for role, text in texts]
    if sum(places) == 0 and pictures:
        places[next(number for number, (role, _) in enumerate(texts) if role == "user")] = len(pictures)
    if sum(places) != len(pictures):
        raise SampleError(f"has {sum(places)} times {PLACE} and {len(pictures)} pictures")
    queue = iter(pictures)
    return [_message(role, text, [str(folder / next(queue)) for _ in range(count)])
            for (role, text), count in zip(texts, places, strict=True)]


def _check_order(roles: list[str]) -> None:
    turns = roles[1:] if roles and roles[0] == "system" else roles
    if not turns:
        raise SampleError("has no answer")
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise SampleError("has turns that do not alternate between question and answer")


def _message(role: str, text: str, pictures: list[str]) -> dict[str, Any]:
    if role != "user":
        return {"role": role, "content": text}
    text = re.sub(rf"\s*{PLACE}\s*", "\n", text).strip()
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _spans(file: Path) -> np.ndarray:
    """Where each sample of a file begins and ends, int64 [samples, 2], in bytes."""
    try:
        found = list(_lines(file) if file.suffix == ".jsonl" else _elements(file))
    except OSError as error:
        raise ConfigError("data.files", str(file), f"can't be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError("data.files", str(file), f"is no JSON array of samples ({error})") from error
    if not found:
        raise ConfigError("data.files", str(file), "holds no samples")
    return np.array(found, dtype=np.int64)


def _lines(file: Path) -> Iterator[tuple[int, int]]:
    at = 0
    with file.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield at, at + len(line)
            at += len(line)


def _elements(file: Path) -> Iterator[tuple[int, int]]:
    """Elements of one large JSON array, decoded chunk by chunk so that it need not fit into memory."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    with file.open(encoding="utf-8", newline="") as stream:
        text = stream.read(_CHUNK)
        opening = re.match(r"\s*\[", text)
        if not opening:
            raise ValueError("it does not begin with [")
        place, at = opening.end(), len(opening.group().encode())  # in characters of `text`, and in bytes of the file
        while True:
            start = between.match(text, place).end()
            at, place = at + start - place, start
            if text.startswith("]", place):
                return
            try:
                end = decoder.raw_decode(text, place)[1]
            except ValueError:
                more = stream.read(_CHUNK)
                if not more:
                    raise
                text, place = text[place:] + more, 0
                continue
            size = len(text[place:end].encode())
            yield at, at + size
            at, place = at + size, end
