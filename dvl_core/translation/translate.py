"""The steps of a translation: source, vocabulary, configuration, plan, shards, files."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..families import FAMILIES, Family
from ..models.checkpoint import CONFIG_ERRORS, first_line
from ..processing.conversation import TURN_END, TURN_START
from .config import TranslationConfig, TranslationError
from .plan import plan_weights
from .source import CheckpointReader, model_type, open_source, read_config, read_tower_config
from .vocabulary import MASK, Vocabulary, make_vocabulary
from .writer import ShardWriter, check_destination, write_json

# Fields that say what a checkpoint is, not what the model is like.
_IDENTITY = ("model_type", "architectures", "transformers_version", "_name_or_path", "auto_map", "torch_dtype")
_TOWER_NAMES = ((r"(vision_model\.)?(?=embeddings\.|encoder\.|post_layernorm\.)", "vision_tower."),)
# Settings that have no meaning for a source that is translated already.
_FORWARD_ONLY = ("vision_tower", "parent", "block_size", "mask_token", "min_pixels", "max_pixels", "seed")


@dataclass(frozen=True)
class Translation:
    """What was made.

    Attributes:
        destination: the folder.
        model_type: of the result.
        tensors, bytes, shards: how many.
        mask_token, mask_id: the mask token.
        mask_added: whether the source's tokenizer lacked it.
    """

    destination: Path
    model_type: str
    tensors: int
    bytes: int
    shards: int
    mask_token: str
    mask_id: int
    mask_added: bool


def translate(
    source: str | Path, destination: str | Path, config: TranslationConfig | None = None, progress: bool = False
) -> Translation:
    """Translate a checkpoint.

    An autoregressive source becomes a block-diffusion checkpoint of its family; one that is translated already is
    written anew in the published layout or, with `layout="stock"`, as a checkpoint of the family's plain class. The
    weights stay what they are, but for the mask token's embedding, which begins as the mean of the input embeddings
    when the tokenizer had none, and for modules that no source has.

    Args:
        source: folder, or repository on the Hugging Face Hub.
        destination: folder to make.
        config: how.
        progress: show a progress bar.

    Raises:
        TranslationError: when it can't be done; nothing is left at the destination.
    """
    config, destination = config or TranslationConfig(), Path(destination).expanduser()
    check_destination(destination)
    folder = open_source(source)
    kind = model_type(folder)
    for family in FAMILIES:
        if kind == family.source_type:
            job = _forward(family, folder, config)
        elif kind == family.config.model_type:
            job = _back(family, folder, config)
        else:
            continue
        return job.run(folder, destination, config, progress)
    known = ", ".join(f"{family.source_type} ({family.example})" for family in FAMILIES)
    raise TranslationError(
        f"{source} is a {kind!r} checkpoint, which no family here is translated from. Known: {known}; and translated "
        f"ones: {', '.join(family.config.model_type for family in FAMILIES)}."
    )


@dataclass(frozen=True)
class _Job:
    """Everything settled: what is read, what it becomes, what is written beside the weights."""

    family: Family
    sources: list[tuple[CheckpointReader, tuple[tuple[str, str], ...], bool]]
    config: Any
    processor: Any
    vocabulary: Vocabulary | None = None

    def run(self, folder: Path, destination: Path, config: TranslationConfig, progress: bool) -> Translation:
        """Write the destination."""
        published = config.layout == "published"
        dtype = None if config.dtype == "keep" else getattr(torch, config.dtype)
        if dtype is not None:
            self.config.dtype = config.dtype
        with torch.device("meta"):
            model = self.family.model(self.config)
        recipes = plan_weights(self.family, model, self.sources, self.vocabulary, dtype, config.seed, published)
        writer = ShardWriter(destination, recipes, config.max_shard_bytes, self.made_from(folder, config))
        writer.open()
        writer.write_shards(self.sources[0][0], progress)
        writer.finish(self.write_files if published else self.write_parts, self.stored_config(published))
        return Translation(
            destination=destination,
            model_type=self.config.model_type if published else self.family.source_type,
            tensors=len(recipes),
            bytes=sum(recipe.bytes for recipe in recipes),
            shards=len(writer.shards),
            mask_token=self.processor.tokenizer.mask_token,
            mask_id=self.config.mask_token_id,
            mask_added=self.vocabulary is not None and self.config.mask_token_id in self.vocabulary.added,
        )

    def made_from(self, folder: Path, config: TranslationConfig) -> dict[str, Any]:
        """What the weights depend on: the settings, and the files of weights as they are now."""
        files = {tensor.file for reader, *_ in self.sources for tensor in reader.tensors.values()}
        stamps = sorted((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return asdict(config) | {"source": str(folder.resolve()), "files": stamps}

    def stored_config(self, published: bool) -> dict[str, Any]:
        """Contents of config.json."""
        if not published:
            return _stock_config(self.family, self.config)
        if self.family.published_config is not None:
            return self.family.published_config(self.config)
        return self.config.to_dict() | {"architectures": [self.family.model.__name__]}

    def write_files(self, folder: Path) -> None:
        """The processor, and its picture processor under the name that other code looks for."""
        self.processor.save_pretrained(folder)
        self.processor.image_processor.save_pretrained(folder)

    def write_parts(self, folder: Path) -> None:
        """Tokenizer and picture processor, which a stock processor is made of."""
        self.processor.tokenizer.save_pretrained(folder)
        self.processor.image_processor.save_pretrained(folder)
        file = folder / "tokenizer_config.json"
        said = json.loads(file.read_text(encoding="utf-8"))
        said.pop("processor_class", None)  # ours; without it AutoProcessor takes the one of the model
        write_json(file, said)


def _forward(family: Family, folder: Path, config: TranslationConfig) -> _Job:
    """An autoregressive source."""
    if config.layout == "stock":
        raise TranslationError(f"{folder} is a plain {family.source_type} checkpoint already: leave --layout out.")
    if family.needs_tower and config.vision_tower is None:
        raise TranslationError(f"{folder} is a language model: give it eyes with --vision-tower, a SigLIP checkpoint.")
    if not family.needs_tower and config.vision_tower is not None:
        raise TranslationError(f"{folder} has a vision tower of its own: leave --vision-tower out.")
    sources = [(CheckpointReader(folder), family.source_names, False)]
    tower, picture_folder = None, folder
    if family.needs_tower:
        picture_folder = open_source(config.vision_tower)
        tower = read_tower_config(picture_folder)
        sources.append((CheckpointReader(picture_folder), _TOWER_NAMES, True))
    source = read_config(folder)
    rows = source.get_text_config().vocab_size
    vocabulary = make_vocabulary(folder, rows, config.mask_token, family.image_token)
    made = _translated_config(family, source, tower, vocabulary, config)
    _check_mask(vocabulary.tokenizer, made)
    processor = _make_processor(family, picture_folder, vocabulary.tokenizer, made)
    return _Job(family, sources, made, processor, vocabulary)


def _back(family: Family, folder: Path, config: TranslationConfig) -> _Job:
    """A source that is translated already, and maybe trained."""
    untouched = TranslationConfig()
    given = [name for name in _FORWARD_ONLY if getattr(config, name) != getattr(untouched, name)]
    if given:
        raise TranslationError(f"{folder} is translated already: {', '.join(given)} can't be set any more.")
    if config.layout == "stock" and family.stock is None:
        raise TranslationError(
            f"{folder} came from a language model and a vision tower; no stock class holds both: leave --layout out."
        )
    try:
        processor = family.processor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise TranslationError(f"The processor of {folder} can't be read: {first_line(error)}") from error
    by_length = sorted(family.model.published_names, key=lambda pair: -len(pair[0]))
    published = tuple((re.escape(file), module) for file, module in by_length)
    sources = [(CheckpointReader(folder), published + family.source_names, False)]
    return _Job(family, sources, read_config(folder), processor)


def _translated_config(
    family: Family, source: Any, tower: Any, vocabulary: Vocabulary, config: TranslationConfig
) -> Any:
    """The source's configuration with the fields of its family and of block diffusion."""
    data = {name: value for name, value in source.to_dict().items() if name not in _IDENTITY}
    data |= family.config_fields(source, tower)
    data |= {
        "enable_bd3lm": not config.parent,
        "bd3lm_block_size": config.block_size,
        "mask_token_id": vocabulary.mask_id,
        "eos_token_id": vocabulary.end_id,
    }
    if vocabulary.image_id is not None:
        data["image_token_id"] = vocabulary.image_id
    if family.pixel_bounds:
        data |= {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    # Old configurations repeat the decoder's fields at the top.
    for part in (data, data.get("text_config", {})):
        known = {"vocab_size": vocabulary.rows, "eos_token_id": vocabulary.end_id}
        part.update({name: value for name, value in known.items() if name in part})
    try:
        return family.config(**data)
    except CONFIG_ERRORS as error:
        raise TranslationError(f"The configuration can't be translated: {first_line(error)}") from error


def _check_mask(tokenizer: Any, config: Any) -> None:
    """Refuse a mask token that is there for something else."""
    others = {config.image_token_id, tokenizer.pad_token_id, *tokenizer.convert_tokens_to_ids([TURN_START, TURN_END])}
    for part in (config, config.get_text_config()):
        others |= {at for name, at in part.to_dict().items() if name.endswith("_token_id") and name != "mask_token_id"}
    if config.mask_token_id in others:
        raise TranslationError(
            f"mask_token: {tokenizer.mask_token} ends turns, pads or holds a picture's place already; give another "
            f"one, such as {MASK}."
        )


def _make_processor(family: Family, folder: Path, tokenizer: Any, config: Any) -> Any:
    """The family's processor around the source's picture processor."""
    bounds = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels} if family.pixel_bounds else {}
    try:
        pictures = family.picture_processor.from_pretrained(folder, **bounds)
        return family.make_processor(pictures, tokenizer, config)
    except (OSError, ValueError) as error:
        raise TranslationError(f"The processor of {folder} can't be translated: {first_line(error)}") from error


def _stock_config(family: Family, config: Any) -> dict[str, Any]:
    """The configuration without what DiffusionVL added to it."""
    stock = family.stock.config_class
    known = {field.name for field in fields(stock)} - set(_IDENTITY)
    data = {name: value for name, value in config.to_dict().items() if name in known and value is not None}
    return stock(**data).to_dict() | {"architectures": [family.stock.__name__]}
