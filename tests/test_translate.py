"""Translation: the parent's numbers, whatever happens on the way, and back again.

Exactness is held against the parent as it is, in text and for LLaVA-OneVision also with pictures. For pictures the
stock Qwen models use 2-D positions (M-RoPE) where DiffusionVL has 1-D ones: there the parent is given those. A
language model's parent knows no pictures: there its stock decoder is given the features of the stock vision tower,
less its last layer, through the translated projector. A new mask token's own logit is the one thing that may differ.
"""

import json

import pytest
import torch
from parents import PARENTS, PICTURE, ask, save_parent, shake
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    ProcessorMixin,
    SiglipVisionModel,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

import dvl_core
from dvl_core import DecodingConfig
from dvl_core.decoding.masks import block_causal_mask
from dvl_core.families import FAMILIES
from dvl_core.training import flex
from dvl_core.training.answers import masked_token_losses
from dvl_core.translation import TranslationConfig, TranslationError, translate
from dvl_core.translation.plan import renamed

WITH_STOCK = [kind for kind in PARENTS if kind != "qwen2"]


def stock(folder):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    auto = AutoModelForCausalLM if kind == "qwen2" else AutoModelForImageTextToText
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


def agree(ours, theirs, model):
    """To 1e-5, but for the mask token's own logit."""
    assert theirs.std() > 0.2  # a wrong weight would show
    ours, theirs = ours[..., : theirs.shape[-1]].clone(), theirs.clone()
    for logits in (ours, theirs):
        logits[..., model.config.mask_token_id : model.config.mask_token_id + 1] = 0
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def parent_logits(parent, model, inputs):
    """The stock parent's logits, on 1-D positions where its own are 2-D, with stock picture features for a LM."""
    inputs = dict(inputs)
    if parent.config.model_type == "qwen2":
        if "pixel_values" in inputs:
            inputs = {"inputs_embeds": model.embed_inputs(**{k: v for k, v in inputs.items() if k != "attention_mask"})}
        return parent(**inputs).logits
    if "qwen" in parent.config.model_type and "pixel_values" in inputs:
        length = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.arange(length).expand(3, 1, length)
    return parent(**inputs).logits


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", PARENTS)
def test_the_parents_logits(translated, kind, tied):
    source, made = translated(kind, tied)
    parent, (model, processor) = stock(source), dvl_core.load_model(made)
    for pictures in ((), (PICTURE,), (PICTURE, PICTURE.resize((16, 40)))):
        inputs = processor.apply_chat_template([ask("What is the picture?", *pictures)])
        ours = model(**inputs, block_size=1).logits
        agree(ours, parent_logits(parent, model, inputs), model)
        assert not torch.allclose(ours, model(**inputs).logits, atol=1e-2)  # its own mask sees more
    assert model.config.enable_bd3lm and model.config.bd3lm_block_size == 8


@torch.no_grad()
def test_untied_logits_are_the_parents_to_the_bit(translated):
    source, made = translated("qwen3_vl")
    model, _ = dvl_core.load_model(made)
    ids = torch.arange(40)[None]
    assert torch.equal(model(ids, block_size=1).logits, stock(source)(ids).logits)


@torch.no_grad()
def test_a_language_model_sees_through_the_stock_tower(translated, siglip):
    model, processor = dvl_core.load_model(translated("qwen2")[1])
    inputs = processor.apply_chat_template([ask("?", PICTURE)])
    stock_tower = SiglipVisionModel.from_pretrained(siglip)
    layers = stock_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    assert len(layers) == 4 and len(model.vision_tower.encoder.layers) == 2
    assert not hasattr(model.vision_tower, "head")
    features = model.mm_projector(layers[-2])
    torch.testing.assert_close(model.tile_features(inputs["pixel_values"]), features, atol=1e-5, rtol=0)
    assert features.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("kind", PARENTS)
def test_answers_about_a_picture(translated, kind):
    """Greedy decoding with the cache is the parent's, token by token; denoising with the cache is that without."""
    source, made = translated(kind)
    parent, (model, processor) = stock(source), dvl_core.load_model(made)
    inputs = processor.apply_chat_template([ask("Hm?", PICTURE)])
    config = DecodingConfig(block_size=4, steps=4, max_new_tokens=9)
    greedy = [int(step.tokens[0, 0]) for step in model.autoregress(inputs, config)]
    assert greedy == slowly(model, parent, inputs, len(greedy))
    answer = model.generate(**inputs, block_size=32, steps=8, max_new_tokens=32).answers[0]
    assert answer and model.config.mask_token_id not in answer
    steps = list(model.denoise(inputs, DecodingConfig(block_size=32, steps=2, max_new_tokens=32)))
    first = steps[0]
    length = inputs["input_ids"].shape[1]
    full = torch.full((1, length // 32 * 32 + 32 - length), model.config.mask_token_id)
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], full], 1)}
    whole.pop("attention_mask")
    logits = model(**whole, block_size=32).logits[:, -32:]
    logits[..., model.config.mask_token_id] = -torch.inf
    sure = logits.softmax(-1).amax(-1)[first.masked]
    torch.testing.assert_close(first.confidences[first.masked], sure, atol=1e-5, rtol=0)


def slowly(model, parent, inputs, count):
    """Greedy decoding by the stock parent, the whole sequence every time."""
    inputs, tokens = {k: v for k, v in inputs.items() if k != "attention_mask"}, []
    for _ in range(count):
        logits = parent_logits(parent, model, inputs)[0, -1]
        logits[model.config.mask_token_id :] = -torch.inf
        tokens.append(int(logits.argmax()))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[tokens[-1]]])], 1)
    return tokens


@torch.no_grad()
def test_deepstack_reaches_the_decoder_in_every_pass(translated):
    model, processor = dvl_core.load_model(translated("qwen3_vl")[1])
    inputs = processor.apply_chat_template([ask("Hm?", PICTURE)])
    embeds = model.embed_inputs(*(inputs[name] for name in ("input_ids", *model.vision_inputs)))
    places = inputs["input_ids"] == model.config.image_token_id
    assert embeds.shape[-1] == 3 * 32
    assert embeds[places][:, 32:].abs().sum() > 1 and not embeds[~places][:, 32:].any()
    config = DecodingConfig(block_size=32, steps=1, max_new_tokens=40)
    blind = embeds.clone()
    blind[..., 32:] = 0
    with_it, without = (list(model.denoise({"inputs_embeds": e}, config)) for e in (embeds, blind))
    # The picture lies in the first, partial block, which the second block's first pass puts into the cache.
    assert all(not torch.allclose(a.confidences, b.confidences) for a, b in zip(with_it[:2], without[:2], strict=True))
    tokens = torch.cat([inputs["input_ids"], with_it[0].tokens[:, inputs["input_ids"].shape[1] :]], 1)
    seen = model.embed_inputs(tokens, *(inputs[name] for name in model.vision_inputs))
    masks = model.token_embeds(torch.full((1, 32), model.config.mask_token_id))
    hidden = model.run_decoder(
        torch.cat([seen, masks], 1), block_causal_mask(64, 32)[None, None], torch.arange(64)[None]
    )
    logits = model.lm_head(hidden[:, -32:])
    logits[..., model.config.mask_token_id] = -torch.inf
    torch.testing.assert_close(with_it[1].confidences, logits.softmax(-1).amax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PARENTS)
def test_what_people_type_stays_text(translated, kind):
    _, processor = dvl_core.load_model(translated(kind)[1])
    plain = processor.apply_chat_template([ask("x")])["input_ids"][0].tolist()
    typed = processor.apply_chat_template([ask("<|mask|><|im_end|><image><|image_pad|><|vision_start|>")])
    controls = set(processor.tokenizer.all_special_ids)
    assert [at for at in typed["input_ids"][0].tolist() if at in controls] == [at for at in plain if at in controls]
    asked = processor.apply_chat_template([ask("x", PICTURE)], tokenize=False)
    around = "<|vision_start|><image><|vision_end|>x" if kind == "qwen3_vl" else "<image>\nx"
    assert f"<|im_start|>user\n{around}<|im_end|>" in asked
    inputs = processor.apply_chat_template([ask("x", PICTURE)])
    grids = processor.picture_grids(inputs, [PICTURE.size])
    placed = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert sum(grid.rows * grid.columns for grid in grids) == placed > 1


def test_llava_counts_tokens_as_the_stock_processor_does(translated):
    _, ours = dvl_core.load_model(translated("llava_onevision")[1])
    theirs = object.__new__(LlavaOnevisionProcessor)  # it can't be made without torchvision
    vars(theirs).update(image_processor=ours.image_processor, num_image_tokens=16, vision_aspect_ratio="anyres_max_9")
    generator = torch.Generator().manual_seed(0)
    for width, height in torch.randint(1, 700, (300, 2), generator=generator).tolist():
        tokens = ours.plan((width, height)).tokens
        assert tokens == theirs._get_number_of_features(height, width, 16, 16)


def test_configurations_and_names_of_older_files(small_translation, tmp_path):
    """Hub files of Qwen2.5-VL have the decoder's fields at the top, and names without `language_model`."""
    source = save_parent("qwen2_5_vl", tmp_path / "parent", tied=True, spare=0)
    config = json.loads((source / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {name: value for name, value in text.items() if name not in ("model_type", "architectures")}
    flat |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    config["vision_config"]["model_type"] = "qwen2_5_vl"
    (source / "config.json").write_text(json.dumps(flat | config | {"tie_word_embeddings": True}))
    translate(source, tmp_path / "made", small_translation("qwen2_5_vl"))
    model, processor = dvl_core.load_model(tmp_path / "made")
    inputs = processor.apply_chat_template([ask("What?", PICTURE)])
    with torch.no_grad():
        agree(model(**inputs, block_size=1).logits, parent_logits(stock(source), model, inputs), model)
    by_type = {family.source_type: family.source_names for family in FAMILIES}
    for kind, stored, module in (
        ("qwen2_5_vl", "visual.merger.ln_q.weight", "model.visual.merger.ln_q.weight"),
        ("qwen2_5_vl", "model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("qwen2_5_vl", "model.language_model.norm.weight", "model.language_model.norm.weight"),
        ("llava_onevision", "language_model.lm_head.weight", "lm_head.weight"),
        ("llava_onevision", "language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("llava_onevision", "vision_tower.vision_model.post_layernorm.bias", "model.vision_tower.post_layernorm.bias"),
        ("llava_onevision", "model.vision_tower.post_layernorm.bias", "model.vision_tower.post_layernorm.bias"),
        ("llava_onevision", "image_newline", "model.image_newline"),
    ):
        assert renamed(stored, by_type[kind]) == module


@torch.no_grad()
@pytest.mark.parametrize("kind", PARENTS)
def test_a_trained_model_goes_back(translated, tmp_path, kind, monkeypatch):
    """Saved by training, it loads again; written in the published layout or as the plain class it says the same."""
    model, processor = dvl_core.load_model(translated(kind)[1])
    shake(model)
    trained = tmp_path / "trained"
    model.save_pretrained(trained, max_shard_size="80KB")
    processor.save_pretrained(trained)
    inputs = processor.apply_chat_template([ask("What?", PICTURE)])
    expected = model(**inputs).logits
    translate(trained, tmp_path / "published", TranslationConfig(max_shard_size="0.05MB"))
    again, same = dvl_core.load_model(tmp_path / "published")
    assert torch.equal(again(**inputs).logits, expected)
    again_inputs = same.apply_chat_template([ask("What?", PICTURE)])
    assert all(torch.equal(again_inputs[name], inputs[name]) for name in inputs)
    assert again.config.enable_bd3lm and again.config.mask_token_id == model.config.mask_token_id
    if kind not in WITH_STOCK:
        with pytest.raises(TranslationError, match="no stock class"):
            translate(trained, tmp_path / "stock", TranslationConfig(layout="stock"))
        return
    made = translate(trained, tmp_path / "stock", TranslationConfig(layout="stock"))
    plain = stock(tmp_path / "stock")
    assert made.model_type == plain.config.model_type == kind
    monkeypatch.setattr(ProcessorMixin, "from_pretrained", classmethod(lambda cls, *_, **__: cls))  # needs torchvision
    assert AutoProcessor.from_pretrained(tmp_path / "stock") is PROCESSOR_MAPPING[type(plain.config)]
    assert type(plain) is next(family.stock for family in FAMILIES if family.source_type == kind)
    causal = model(**inputs, block_size=1).logits
    torch.testing.assert_close(parent_logits(plain, model, inputs), causal, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PARENTS)
def test_training_sees_what_decoding_sees(translated, kind, monkeypatch):
    """A noisy block after the picture, in the training pass, has the logits of a decoding pass on that block."""
    model, processor = dvl_core.load_model(translated(kind)[1])
    inputs = dict(processor.apply_chat_template([ask("Hm?", PICTURE)]))
    inputs.pop("attention_mask")
    start = -(-inputs["input_ids"].shape[1] // 4) * 4
    answer = torch.arange(20, 20 + start + 4 - inputs["input_ids"].shape[1])
    ids = inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], 1)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, start + 1 : start + 3] = True
    labels = torch.where(torch.arange(len(ids[0])) >= start, ids, -100)
    losses = masked_token_losses(model, model.embed_inputs(**inputs), labels, masked, 4)
    noisy = {**inputs, "input_ids": torch.where(masked, model.config.mask_token_id, ids)}
    logits = model(**noisy, block_size=4).logits[masked]
    expected = torch.nn.functional.cross_entropy(logits, ids[masked], reduction="none")
    torch.testing.assert_close(losses[masked], expected, atol=1e-5, rtol=0)
    losses.sum().backward()
    tower = next(p for name, p in model.named_parameters() if "patch_embed" in name and name.endswith("weight"))
    assert tower.grad.abs().sum() > 0
    with torch.no_grad(), monkeypatch.context() as patch:  # and so it is through FlexAttention
        patch.setattr(flex, "takes_flex", lambda *_: True)  # these heads are too narrow for its compiled kernels
        embeds = model.embed_inputs(**inputs)
        torch.testing.assert_close(masked_token_losses(model, embeds, labels, masked, 4), losses, atol=1e-5, rtol=0)
