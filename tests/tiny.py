"""Random models: one with a few hundred ids, for tests of behaviour that no recorded number pins down, and one of the
bundled family."""

import torch

from dvl_core.models import DiffusionVLQwenVLConfig, DiffusionVLQwenVLForConditionalGeneration
from dvl_core.training.bundled import bundled_config

VOCABULARY, EOS, MASK, IMAGE = 260, 257, 258, 259


def tiny_config(**fields) -> DiffusionVLQwenVLConfig:
    """Two layers, width 32."""
    defaults = dict(image_token_id=IMAGE, mask_token_id=MASK, eos_token_id=EOS)
    return DiffusionVLQwenVLConfig(
        text_config=dict(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.3, bos_token_id=None,
            eos_token_id=EOS, pad_token_id=256,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        ),
        vision_config=dict(
            depth=2, hidden_size=16, intermediate_size=32, num_heads=2, patch_size=4, out_hidden_size=32,
            window_size=16, fullatt_block_indexes=[0, 1], initializer_range=0.3,
        ),
        **{**defaults, **fields},
    )  # fmt: skip


def tiny_model(seed: int = 0, **fields) -> DiffusionVLQwenVLForConditionalGeneration:
    """A random model of `tiny_config`, weights large enough that proposals differ from cell to cell."""
    torch.manual_seed(seed)
    model = DiffusionVLQwenVLForConditionalGeneration(tiny_config(**fields)).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.6)
        model.lm_head.weight.normal_(0, 0.6)
        model.lm_head.weight[EOS] *= 2.5  # so that some answers end early
    return model


def random_bundled(tokenizer) -> DiffusionVLQwenVLForConditionalGeneration:
    """A random model of the bundled family's size."""
    torch.manual_seed(0)
    config = bundled_config(tokenizer)
    config._attn_implementation = "eager"
    return DiffusionVLQwenVLForConditionalGeneration(config).eval()


def prompts(count: int, seed: int = 1, shortest: int = 1, longest: int = 21) -> list[list[int]]:
    """Random prompts of different length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def padded(rows: list[list[int]], side: str = "right") -> dict[str, torch.Tensor]:
    """A batch with its attention mask; padding holds an ordinary id, to show that it is not looked at."""
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill, ones = [7] * (longest - len(row)), [1] * len(row)
        zeros = [0] * len(fill)
        ids.append(row + fill if side == "right" else fill + row)
        mask.append(ones + zeros if side == "right" else zeros + ones)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
