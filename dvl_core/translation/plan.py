"""Where every tensor of the translated checkpoint comes from, settled before the first one is read."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..families.family import Family, draw_fresh
from ..models.checkpoint import listed, published_name
from .config import TranslationError
from .source import CheckpointReader, StoredTensor
from .vocabulary import Vocabulary

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_CHUNK = 4096  # rows of an embedding averaged at once


@dataclass(frozen=True)
class Recipe:
    """How one tensor of the translated checkpoint is made.

    Attributes:
        name: in the translated files.
        shape, dtype: of the result.
        stored: the tensor it is copied from; None for one that no source has.
        mean_rows: rows that become the mean of the first `known` rows.
        known: rows that the source's tokenizer uses.
        fan_in: numbers that enter the layer, for a tensor that is drawn.
        seed: of that draw.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    stored: StoredTensor | None = None
    mean_rows: tuple[int, ...] = ()
    known: int = 0
    fan_in: int = 0
    seed: int = 0

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return math.prod(self.shape) * self.dtype.itemsize

    def make(self, reader: CheckpointReader) -> Tensor:
        """The tensor."""
        if self.stored is None:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {self.name}".encode()))
            return draw_fresh(torch.Size(self.shape), self.fan_in, generator).to(self.dtype)
        tensor = reader.read(self.stored)
        if self.mean_rows:
            mean = _mean_row(tensor[: self.known]).to(tensor.dtype)
            if self.shape[0] > len(tensor):
                tensor = torch.cat([tensor, tensor.new_zeros(self.shape[0] - len(tensor), *self.shape[1:])])
            tensor[list(self.mean_rows)] = mean
        return tensor.to(self.dtype)


def _mean_row(rows: Tensor) -> Tensor:
    """Mean over the rows, in double precision, without a double-precision copy of them all."""
    return sum(chunk.double().sum(0) for chunk in rows.split(_CHUNK)) / len(rows)


def plan_weights(
    family: Family,
    model: nn.Module,
    sources: list[tuple[CheckpointReader, tuple[tuple[str, str], ...], bool]],
    vocabulary: Vocabulary | None,
    dtype: torch.dtype | None,
    seed: int,
    published: bool,
) -> list[Recipe]:
    """A recipe for every tensor, in the model's order.

    Args:
        family: of the model.
        model: the translated model, on the meta device.
        sources: readers, each with its renamings (see `Family.source_names`) and whether it may have tensors that
            the model has no place for, as a vision tower's text half.
        vocabulary: what was added to the tokenizer; None when nothing can have been.
        dtype: of all tensors; None keeps the stored one, the decoder's where it is joined to another checkpoint.
        seed: for what is drawn.
        published: give the tensors the names of published files.

    Raises:
        TranslationError: naming the tensors that are missing, unexpected or of the wrong shape.
    """
    places = module_shapes(model)
    origins, unexpected = _match(places, _tied(model), sources)
    embedding, head = (_name_of(model, part) for part in (model.get_input_embeddings(), model.lm_head))
    if len(sources) > 1 and dtype is None and embedding in origins:
        dtype = _stored_dtype(origins[embedding])
    missing, wrong, recipes = [], [], []
    for name, shape in places.items():
        stored, means = origins.get(name), ()
        if stored is None and not name.startswith(family.fresh):
            missing.append(name)
            continue
        if stored is not None:
            held = stored.shape
            if vocabulary is not None and name in (embedding, head):
                held, means = _with_added_rows(held, vocabulary, name == embedding)
            if held != shape:
                wrong.append(f"{stored.name} {held} instead of {shape}")
                continue
        recipes.append(
            Recipe(
                name=published_name(family.model, name) if published else name,
                shape=shape,
                dtype=dtype or _stored_dtype(stored),
                stored=stored,
                mean_rows=means,
                known=vocabulary.known if vocabulary else 0,
                fan_in=_fan_in(places, name),
                seed=seed,
            )
        )
    problems = [f"{kind}: {listed(names)}" for kind, names in
                (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)) if names]  # fmt: skip
    if problems:
        raise TranslationError(f"The source's tensors do not fit the model. {'; '.join(problems)}.")
    return recipes


def _with_added_rows(
    held: tuple[int, ...], vocabulary: Vocabulary, is_embedding: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of an embedding or head that has a row for every token, and the rows that begin as the mean.

    Of the source's spare rows only the mask token's changes, and only on the way in: the picture token's is never
    looked at, and leaving the head's alone keeps the parent's logits to the bit.
    """
    new = {vocabulary.mask_id} if is_embedding else set()
    means = tuple(at for at in vocabulary.added if at in new or at >= held[0])
    return (max(held[0], vocabulary.rows), *held[1:]), means


def module_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that is stored, tied ones once."""
    tied = _tied(model)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def split_shards(recipes: list[Recipe], limit: int) -> list[list[Recipe]]:
    """Consecutive recipes of at most `limit` bytes together; one tensor beyond the limit has a shard to itself."""
    shards: list[list[Recipe]] = [[]]
    for recipe in recipes:
        if shards[-1] and sum(other.bytes for other in shards[-1]) + recipe.bytes > limit:
            shards.append([])
        shards[-1].append(recipe)
    return shards


def renamed(name: str, renamings: tuple[tuple[str, str], ...]) -> str:
    """`name` with the beginning that fits first replaced."""
    for pattern, module in renamings:
        if match := re.match(pattern, name):
            return module + name[match.end() :]
    return name


def _match(places, tied: set[str], sources) -> tuple[dict[str, StoredTensor], list[str]]:
    """Which stored tensor goes where, and those that go nowhere."""
    origins, unexpected = {}, []
    for reader, renamings, may_have_more in sources:
        for name, stored in reader.tensors.items():
            module = renamed(name, renamings)
            if module in places:
                origins[module] = stored
            elif module not in tied and not may_have_more:
                unexpected.append(name)
    return origins, unexpected


def _tied(model: nn.Module) -> set[str]:
    """Names of tensors that are another tensor's once more: the head of a model with tied embeddings."""
    tied = model.config.tie_word_embeddings
    return {_name_of(model, model.lm_head)} if tied else set()


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(f"{name}.weight" for name, module in model.named_modules() if module is part)


def _fan_in(places: dict[str, tuple[int, ...]], name: str) -> int:
    """Numbers entering the layer of a weight [out, in] or its bias; the length of a lone vector."""
    return places.get(f"{name.removesuffix('.bias')}.weight", places[name])[-1]


def _stored_dtype(stored: StoredTensor) -> torch.dtype:
    if stored.dtype not in _DTYPES:
        raise TranslationError(f"{stored.name} is stored as {stored.dtype}, which is not supported.")
    return _DTYPES[stored.dtype]
