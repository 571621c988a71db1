"""Tiny random autoregressive checkpoints, one of every family that can be translated, saved by stock transformers."""

from pathlib import Path

import torch
from PIL import Image
from qwen_tokenizer import _trained
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = (*TURNS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<image>")
WIDTH, SPARE = 32, 6
PICTURE = Image.radial_gradient("L").resize((30, 22)).convert("RGB")
ROPE = {"rope_type": "default", "rope_theta": 1e4}


def parent_tokenizer(added: tuple[str, ...] = ADDED) -> Qwen2Tokenizer:
    """As Qwen's: a byte-level vocabulary, and special tokens that are added behind it, not part of it."""
    model = _trained()
    merges = [tuple(merge) for merge in model["merges"]]
    return Qwen2Tokenizer(
        vocab=dict(model["vocab"]), merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=list(added),
    )  # fmt: skip


def _decoder(tokens: int, **fields) -> dict:
    return {
        "vocab_size": tokens, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": None,
        "rope_parameters": dict(ROPE),
    } | fields  # fmt: skip


def _qwen2_5_vl(tokens: int, image: int, tied: bool):
    text = _decoder(tokens, rope_parameters=ROPE | {"mrope_section": [1, 1, 2]}, tie_word_embeddings=tied)
    vision = dict(depth=2, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=WIDTH,
                  window_size=16, fullatt_block_indexes=[1])  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=image, tie_word_embeddings=tied)
    return Qwen2_5_VLForConditionalGeneration(config), Qwen2VLImageProcessorPil(patch_size=4, merge_size=2)


def _qwen3_vl(tokens: int, image: int, tied: bool):
    rope = ROPE | {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = _decoder(tokens, head_dim=8, rope_parameters=rope)
    vision = dict(depth=3, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=WIDTH,
                  num_position_embeddings=16, deepstack_visual_indexes=[0, 1])  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=image, tie_word_embeddings=tied)
    return Qwen3VLForConditionalGeneration(config), Qwen2VLImageProcessorPil(patch_size=4, merge_size=2)


_TOWER = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, image_size=16, patch_size=4)
CANVASES = [[16, 16], [16, 32], [32, 16], [32, 32], [16, 48]]


def _llava_onevision(tokens: int, image: int, tied: bool):
    config = LlavaOnevisionConfig(
        text_config=_decoder(tokens, model_type="qwen2"), image_token_index=image, tie_word_embeddings=tied,
        vision_config=_TOWER | {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "vision_use_head": False},
        image_grid_pinpoints=CANVASES,
    )  # fmt: skip
    size = {"height": 16, "width": 16}
    pictures = LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=CANVASES)
    return LlavaOnevisionForConditionalGeneration(config), pictures


def _qwen2(tokens: int, image: int, tied: bool):
    return Qwen2ForCausalLM(Qwen2Config(**_decoder(tokens, tie_word_embeddings=tied))), None


PARENTS = {
    "qwen2_5_vl": (_qwen2_5_vl, "<|image_pad|>"),
    "qwen2": (_qwen2, "<|image_pad|>"),
    "qwen3_vl": (_qwen3_vl, "<|image_pad|>"),
    "llava_onevision": (_llava_onevision, "<image>"),
}


def save_parent(
    kind: str, folder: Path, tied: bool = False, spare: int = SPARE, dtype: torch.dtype = torch.float32
) -> Path:
    """A checkpoint of this kind in several files, its embedding `spare` rows longer than its vocabulary."""
    torch.manual_seed(5)
    build, image_token = PARENTS[kind]
    tokenizer = parent_tokenizer(ADDED if kind != "qwen2" else TURNS)
    ids = tokenizer.get_vocab()
    tokens = max(ids.values()) + 1 + spare
    model, pictures = build(tokens, ids.get(image_token), tied)
    shake(model)
    model.to(dtype).save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    if pictures is not None:
        pictures.save_pretrained(folder)
    return folder


def save_tower(folder: Path) -> Path:
    """A SigLIP of two halves, its vision half with a pooling head and three layers."""
    torch.manual_seed(6)
    text = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=40,
                bos_token_id=1, eos_token_id=2)  # fmt: skip
    model = SiglipModel(SiglipConfig(vision_config=_TOWER | {"num_hidden_layers": 3}, text_config=text))
    shake(model)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def shake(model: torch.nn.Module) -> None:
    """Weights large enough that a wrong one shows in the logits."""
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.15)


def ask(text: str, *pictures: Image.Image) -> dict:
    """One question about some pictures."""
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
