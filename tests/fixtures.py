"""Tiny random checkpoints in the published layouts, drawn from a seed, for the tests to load.

Every tensor has its own random stream, seeded by (variant seed, crc32 of the tensor's name), so the values
depend neither on the order of creation nor on the library version: float32(mean + std * standard_normal).
`tests/data/goldens/fixture_sums.json` holds the checksums that the recorded outputs were made with.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

EOS_ID, MASK_ID = 151645, 151671
VOCABULARY, WIDTH, LAYERS, PATCH = 151936, 64, 3, 14
KV_WIDTH, MLP_WIDTH = 32, 128
TOWER_WIDTH, TOWER_MLP = 32, 64  # both vision towers
MERGED_WIDTH = TOWER_WIDTH * 4  # 2 x 2 patches are merged into one picture token
SUMS_FILE = Path(__file__).parent / "data" / "goldens" / "fixture_sums.json"


@dataclass(frozen=True)
class Edit:
    """After drawing: row `row` of `tensor` becomes `factor` times row `source` (itself when None)."""

    tensor: str
    row: int
    factor: float = 1.0
    source: int | None = None


@dataclass(frozen=True)
class Variant:
    """One checkpoint: which family, which seed, tied embeddings or not, and the rows edited afterwards."""

    family: str  # "vl", "lm" or "siglip"
    seed: int
    tied: bool = False
    edits: tuple[Edit, ...] = ()


EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
VARIANTS = {
    # with a tied head the mask token would mostly predict itself: its row is scaled down
    "qwenvl_tied": Variant("vl", 1001, tied=True, edits=(Edit(EMBEDDINGS, MASK_ID, 0.4),)),
    "qwenvl_untied": Variant("vl", 1002),
    # the end of the answer turns up now and then
    "qwenvl_eos": Variant("vl", 1002, edits=(Edit(HEAD, EOS_ID, 3.0),)),
    # the model proposes the mask token itself now and then
    "qwenvl_maskgen": Variant("vl", 1002, edits=(Edit(HEAD, MASK_ID, 3.0),)),
    # token 777 looks exactly like the mask token on the way in, and turns up now and then
    "qwenvl_alias": Variant("vl", 1002, edits=(Edit(EMBEDDINGS, 777, source=MASK_ID), Edit(HEAD, 777, 3.0))),
    "qwenlm_untied": Variant("lm", 2001),
    "siglip2_tiny": Variant("siglip", 2001),
}


def _norm(name: str, width: int, bias: bool = False) -> dict:
    tensors = {f"{name}.weight": ((width,), 0.1, 1.0)}
    return tensors | ({f"{name}.bias": ((width,), 0.1, 0.0)} if bias else {})


def _linear(name: str, rows: int, columns: int, std: float, bias_std: float | None = None) -> dict:
    tensors = {f"{name}.weight": ((rows, columns), std, 0.0)}
    return tensors | ({f"{name}.bias": ((rows,), bias_std, 0.0)} if bias_std is not None else {})


def decoder_tensors(tied: bool) -> dict:
    """{name: (shape, std, mean)} of the Qwen2.5 decoder, the same names in both families."""
    tensors = {EMBEDDINGS: ((VOCABULARY, WIDTH), 0.9 if tied else 0.625, 0.0)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors |= _norm(at + "input_layernorm", WIDTH) | _norm(at + "post_attention_layernorm", WIDTH)
        tensors |= _linear(at + "self_attn.q_proj", WIDTH, WIDTH, 0.22, 0.3)
        tensors |= _linear(at + "self_attn.k_proj", KV_WIDTH, WIDTH, 0.22, 0.3)
        tensors |= _linear(at + "self_attn.v_proj", KV_WIDTH, WIDTH, 0.125, 0.2)
        tensors |= _linear(at + "self_attn.o_proj", WIDTH, WIDTH, 0.17)
        tensors |= _linear(at + "mlp.gate_proj", MLP_WIDTH, WIDTH, 0.15)
        tensors |= _linear(at + "mlp.up_proj", MLP_WIDTH, WIDTH, 0.125)
        tensors |= _linear(at + "mlp.down_proj", WIDTH, MLP_WIDTH, 0.12)
    tensors |= _norm("model.norm", WIDTH)
    return tensors if tied else tensors | {HEAD: ((VOCABULARY, WIDTH), 0.9, 0.0)}


def qwen_tower_tensors() -> dict:
    """The Qwen2.5-VL vision tower and its merger, under the published names."""
    root = "model.vision_tower.vision_tower."
    tensors = {root + "patch_embed.proj.weight": ((TOWER_WIDTH, 3, 2, PATCH, PATCH), 0.03, 0.0)}
    for block in range(4):
        at = f"{root}blocks.{block}."
        tensors |= _norm(at + "norm1", TOWER_WIDTH) | _norm(at + "norm2", TOWER_WIDTH)
        tensors |= _linear(at + "attn.qkv", 3 * TOWER_WIDTH, TOWER_WIDTH, 0.22, 0.2)
        tensors |= _linear(at + "attn.proj", TOWER_WIDTH, TOWER_WIDTH, 0.15, 0.1)
        tensors |= _linear(at + "mlp.gate_proj", TOWER_MLP, TOWER_WIDTH, 0.2, 0.1)
        tensors |= _linear(at + "mlp.up_proj", TOWER_MLP, TOWER_WIDTH, 0.2, 0.1)
        tensors |= _linear(at + "mlp.down_proj", TOWER_WIDTH, TOWER_MLP, 0.15, 0.1)
    at = "model.mm_projector.merger."
    tensors |= _norm(at + "ln_q", TOWER_WIDTH)
    tensors |= _linear(at + "mlp.0", MERGED_WIDTH, MERGED_WIDTH, 0.09, 0.1)
    return tensors | _linear(at + "mlp.2", WIDTH, MERGED_WIDTH, 0.09, 0.1)


def siglip_tensors(root: str, layers: int, head: bool = False) -> dict:
    """A SigLIP2 vision tower under `root`; `head` adds the pooling head that the published model removes."""
    root += "vision_model."
    tensors = {
        root + "embeddings.patch_embedding.weight": ((TOWER_WIDTH, 3, PATCH, PATCH), 0.04, 0.0),
        root + "embeddings.patch_embedding.bias": ((TOWER_WIDTH,), 0.1, 0.0),
        root + "embeddings.position_embedding.weight": ((729, TOWER_WIDTH), 0.5, 0.0),
    }
    for layer in range(layers):
        at = f"{root}encoder.layers.{layer}."
        tensors |= _norm(at + "layer_norm1", TOWER_WIDTH, True) | _norm(at + "layer_norm2", TOWER_WIDTH, True)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= _linear(f"{at}self_attn.{name}", TOWER_WIDTH, TOWER_WIDTH, 0.2, 0.1)
        tensors |= _linear(at + "mlp.fc1", TOWER_MLP, TOWER_WIDTH, 0.2, 0.1)
        tensors |= _linear(at + "mlp.fc2", TOWER_WIDTH, TOWER_MLP, 0.15, 0.1)
    tensors |= _norm(root + "post_layernorm", TOWER_WIDTH, True)
    if head:
        at = root + "head."
        tensors |= {
            at + "probe": ((1, 1, TOWER_WIDTH), 1.0, 0.0),
            at + "attention.in_proj_weight": ((3 * TOWER_WIDTH, TOWER_WIDTH), 0.2, 0.0),
            at + "attention.in_proj_bias": ((3 * TOWER_WIDTH,), 0.1, 0.0),
        }
        tensors |= _linear(at + "attention.out_proj", TOWER_WIDTH, TOWER_WIDTH, 0.2, 0.1)
        tensors |= _norm(at + "layernorm", TOWER_WIDTH, True)
        tensors |= _linear(at + "mlp.fc1", TOWER_MLP, TOWER_WIDTH, 0.2, 0.1)
        tensors |= _linear(at + "mlp.fc2", TOWER_WIDTH, TOWER_MLP, 0.2, 0.1)
    return tensors


def lm_picture_tensors() -> dict:
    """What the second family adds to the decoder: newline, projector, SigLIP2 tower less its last layer."""
    tensors = {"model.image_newline": ((WIDTH,), 0.6, 0.0)}
    tensors |= _linear("model.mm_projector.0", WIDTH, TOWER_WIDTH, 0.15, 0.1)
    tensors |= _linear("model.mm_projector.2", WIDTH, WIDTH, 0.12, 0.1)
    return tensors | siglip_tensors("model.vision_tower.vision_tower.", layers=2)


def _decoder_config(tied: bool) -> dict:
    return {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": MLP_WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
        "max_position_embeddings": 32768, "initializer_range": 0.02, "rms_norm_eps": 1e-6, "use_cache": True,
        "tie_word_embeddings": tied, "rope_theta": 1000000.0, "use_sliding_window": False,
        "sliding_window": None, "max_window_layers": LAYERS, "layer_types": ["full_attention"] * LAYERS,
        "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": EOS_ID, "torch_dtype": "float32",
    }  # fmt: skip


DIFFUSION_FIELDS = {
    "enable_bd3lm": True, "bd3lm_block_size": 8, "bd3lm_antithetic_sampling": True,
    "bd3lm_sampling_eps_min": 1e-3, "bd3lm_sampling_eps_max": 1.0, "bd3lm_block_aligned_eos": True,
    "mm_hidden_size": TOWER_WIDTH, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
}  # fmt: skip


def vl_config(tied: bool) -> dict:
    """config.json of the VL family as published: the text fields stand at the top and in text_config."""
    rope = {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]}
    text = _decoder_config(tied) | {"rope_scaling": rope}
    vision = {
        "model_type": "qwen2_5_vl", "depth": 4, "hidden_size": TOWER_WIDTH, "hidden_act": "silu",
        "intermediate_size": TOWER_MLP, "num_heads": 2, "in_channels": 3, "patch_size": PATCH,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112,
        "out_hidden_size": WIDTH, "fullatt_block_indexes": [1, 3], "initializer_range": 0.02,
    }  # fmt: skip
    return text | DIFFUSION_FIELDS | {
        "architectures": ["DiffusionVL_Qwen2_5_VL_ForConditionalGeneration"],
        "model_type": "diffusionvl_qwenvl", "image_token_id": 151655, "video_token_id": 151656,
        "mm_projector_type": "qwen_merger", "mm_patch_merge_type": "flat", "image_aspect_ratio": "pad",
        "min_pixels": 147456, "max_pixels": 262144, "vision_config": vision,
        "text_config": text | {"model_type": "qwen2_5_vl_text"},
    }  # fmt: skip


def lm_config() -> dict:
    """config.json of the second family as published: flat Qwen2 fields, no word about the vision tower."""
    return _decoder_config(False) | DIFFUSION_FIELDS | {
        "architectures": ["DiffusionVLQwenForCausalLM"], "model_type": "diffusionvl_qwen",
        "rope_scaling": None, "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "spatial_unpad",
        "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "mm_newline_position": "grid",
        "image_aspect_ratio": "anyres_max_4",
        "image_grid_pinpoints": [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)],
        "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right",
        "unfreeze_mm_vision_tower": True,
    }  # fmt: skip


SIGLIP_CONFIG = {
    "model_type": "siglip_vision_model", "architectures": ["SiglipVisionModel"], "hidden_size": TOWER_WIDTH,
    "intermediate_size": TOWER_MLP, "num_hidden_layers": 3, "num_attention_heads": 2, "num_channels": 3,
    "image_size": 384, "patch_size": PATCH, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0, "torch_dtype": "float32",
}  # fmt: skip
# the pixel bounds that the picture processor of the base model has: config.json's own bounds override them
VL_PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}  # fmt: skip


def describe(variant: Variant) -> tuple[dict, dict[str, dict]]:
    """({tensor name: (shape, std, mean)}, {file name: contents}) of a checkpoint."""
    if variant.family == "vl":
        tensors = decoder_tensors(variant.tied) | qwen_tower_tensors()
        return tensors, {"config.json": vl_config(variant.tied), "preprocessor_config.json": VL_PREPROCESSOR}
    if variant.family == "lm":
        return decoder_tensors(variant.tied) | lm_picture_tensors(), {"config.json": lm_config()}
    return siglip_tensors("", layers=3, head=True), {"config.json": SIGLIP_CONFIG}


def draw_tensors(variant: Variant) -> dict[str, np.ndarray]:
    """The checkpoint's tensors, float32, by published name."""
    tensors = {}
    for name, (shape, std, mean) in describe(variant)[0].items():
        stream = np.random.Generator(np.random.PCG64([variant.seed, zlib.crc32(name.encode("utf-8"))]))
        tensors[name] = (mean + std * stream.standard_normal(shape)).astype(np.float32)
    for edit in variant.edits:
        weight = tensors[edit.tensor]
        source = edit.row if edit.source is None else edit.source
        weight[edit.row] = weight[source] * np.float32(edit.factor)
    return tensors


def checksum(tensors: dict[str, np.ndarray]) -> str:
    """sha256 over `name=sha256(bytes)` lines in name order."""
    lines = (f"{name}={hashlib.sha256(tensors[name].tobytes()).hexdigest()}\n" for name in sorted(tensors))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def build_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` into `folder` and return it; raises when its values are not the recorded ones."""
    variant = VARIANTS[name]
    tensors = draw_tensors(variant)
    if (expected := json.loads(SUMS_FILE.read_text())[name]) != (found := checksum(tensors)):
        raise AssertionError(f"the test checkpoint {name} came out as {found}, recorded is {expected}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file, contents in describe(variant)[1].items():
        (folder / file).write_text(json.dumps(contents, indent=1))
    return folder
