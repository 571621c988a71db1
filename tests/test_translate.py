"""Translation: the parent's numbers, whatever happens on the way, and back again.

Exactness is held against the parent as it is, in text and for LLaVA-OneVision also with pictures. For pictures the
stock Qwen models use 2-D positions (M-RoPE) where DiffusionVL has 1-D ones: there the parent is given those. A
language model's parent knows no pictures: there its stock decoder is given the features of the stock vision tower,
less its last layer, through the translated projector. A new mask token's own logit is the one thing that may differ.
"""

import hashlib
import json
import sys

import pytest
import torch
from fixtures import vl_config
from parents import ADDED, PARENTS, PICTURE, SPARE, ask, parent_tokenizer, save_parent, save_tower, shake
from qwen_tokenizer import qwen_tokenizer
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, SiglipVisionModel
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

import dvl_core
from dvl_core import DecodingConfig
from dvl_core.decoding.masks import block_causal_mask
from dvl_core.families import FAMILIES
from dvl_core.models.checkpoint import CheckpointError
from dvl_core.translate import main
from dvl_core.translation import TranslationConfig, TranslationError, plan, translate, writer
from dvl_core.translation.plan import renamed
from dvl_core.translation.source import CheckpointReader
from dvl_core.translation.vocabulary import make_vocabulary

SMALL = dict(max_shard_size="0.05MB", min_pixels=64, max_pixels=1024)
WITH_STOCK = [kind for kind in PARENTS if kind != "qwen2"]


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return save_tower(tmp_path_factory.mktemp("tower") / "siglip")


@pytest.fixture(scope="module")
def settings(tower):
    """`settings(kind, ...)`: of a translation of that kind of parent."""
    return lambda kind, **more: TranslationConfig(
        **SMALL | ({"vision_tower": str(tower)} if kind == "qwen2" else {}) | more
    )


@pytest.fixture(scope="module")
def translated(tmp_path_factory, settings):
    """`translated(kind, tied) -> (parent folder, translated folder)`, made once."""
    root, made = tmp_path_factory.mktemp("translated"), {}

    def build(kind, tied=False):
        if (kind, tied) not in made:
            parent = save_parent(kind, root / f"{kind}-{tied}", tied)
            translate(parent, root / f"{kind}-{tied}-dvl", settings(kind))
            made[kind, tied] = parent, root / f"{kind}-{tied}-dvl"
        return made[kind, tied]

    return build


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
def test_a_language_model_sees_through_the_stock_tower(translated, tower):
    model, processor = dvl_core.load_model(translated("qwen2")[1])
    inputs = processor.apply_chat_template([ask("?", PICTURE)])
    stock_tower = SiglipVisionModel.from_pretrained(tower)
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
    torch.testing.assert_close(first.confidences, logits.softmax(-1).amax(-1), atol=1e-5, rtol=0)


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
    model, ours = dvl_core.load_model(translated("llava_onevision")[1])
    theirs = object.__new__(LlavaOnevisionProcessor)  # it can't be made without torchvision
    vars(theirs).update(image_processor=ours.image_processor, num_image_tokens=16, vision_aspect_ratio="anyres_max_9")
    generator = torch.Generator().manual_seed(0)
    for width, height in torch.randint(1, 700, (300, 2), generator=generator).tolist():
        tokens = ours.plan((width, height)).tokens
        assert tokens == theirs._get_number_of_features(height, width, 16, 16)
        grids = model.picture_grids(None, torch.tensor([[height, width]]))
        assert tokens == sum(rows * columns for rows, columns in grids)


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2"])
def test_an_interrupted_run_leaves_nothing_and_goes_on(translated, settings, tmp_path, monkeypatch, kind):
    source, whole = translated(kind)
    destination, working = tmp_path / "made", tmp_path / ".made.translating"
    written, save = [], writer.save_file

    def until_the_third(tensors, path, metadata):
        if len(written) == 2:
            path.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        written.append(path.name)
        save(tensors, path, metadata)

    monkeypatch.setattr(writer, "save_file", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        translate(source, destination, settings(kind))
    assert not destination.exists() and len(list(working.glob("*.safetensors"))) == 2
    with pytest.raises(CheckpointError):
        dvl_core.load_model(working)

    def count(tensors, path, metadata):
        written.append(path.name)
        save(tensors, path, metadata)

    monkeypatch.setattr(writer, "save_file", count)
    made = translate(source, destination, settings(kind))
    assert len(written) == len(set(written)) == made.shards  # no shard was written twice
    assert digest(destination) == digest(whole)
    assert not working.exists() and not list(destination.glob("*partial*"))


def test_a_working_folder_of_another_plan_is_begun_anew(translated, settings, tmp_path, monkeypatch):
    source, whole = translated("qwen2_5_vl")

    def stop(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(writer.ShardWriter, "finish", stop)
        with pytest.raises(OSError, match="disk full"):
            translate(source, tmp_path / "made", settings("qwen2_5_vl", dtype="bfloat16"))
    translate(source, tmp_path / "made", settings("qwen2_5_vl"))
    assert digest(tmp_path / "made") == digest(whole)


def test_no_more_than_a_shard_is_held(translated, settings, tmp_path, monkeypatch):
    """Tensors alive at once, from reading to saving: a shard, and the tensor being converted."""
    import weakref

    source, _ = translated("qwen2_5_vl")
    alive, most, largest = {}, [0], [0]

    def watched(tensor):
        size, key = tensor.numel() * tensor.element_size(), object()
        alive[key] = size
        weakref.finalize(tensor, alive.pop, key)
        most[0], largest[0] = max(most[0], sum(alive.values())), max(largest[0], size)
        return tensor

    read, make = CheckpointReader.read, plan.Recipe.make
    monkeypatch.setattr(CheckpointReader, "read", lambda self, stored: watched(read(self, stored)))
    monkeypatch.setattr(plan.Recipe, "make", lambda self, reader: watched(make(self, reader)))
    limit = 60_000
    made = translate(source, tmp_path / "made", settings("qwen2_5_vl", max_shard_size="0.06MB"))
    assert made.shards >= 4 and made.bytes > 3 * limit
    assert most[0] <= limit + 2 * largest[0] < made.bytes / 1.5
    for path in (tmp_path / "made").glob("*.safetensors"):
        assert path.stat().st_size < limit + largest[0] + 10_000


def test_the_mask_token_that_is_there_is_taken(settings, tmp_path):
    source = save_parent("qwen2_5_vl", tmp_path / "parent")
    tokenizer = parent_tokenizer((*ADDED, "<|mdm|>"))
    tokenizer.save_pretrained(source)
    made = translate(source, tmp_path / "named", settings("qwen2_5_vl", mask_token="<|mdm|>"))
    assert (made.mask_token, made.mask_added) == ("<|mdm|>", False)
    assert made.mask_id == tokenizer.convert_tokens_to_ids("<|mdm|>")
    assert torch.equal(*(weights(folder)["embed_tokens.weight"] for folder in (source, tmp_path / "named")))
    tokenizer.mask_token = "<|mdm|>"
    tokenizer.save_pretrained(source)
    assert translate(source, tmp_path / "own", settings("qwen2_5_vl")).mask_token == "<|mdm|>"
    again = AutoTokenizer.from_pretrained(tmp_path / "own")
    assert again.mask_token_id == made.mask_id


def weights(folder):
    """Tensors of a folder by the end of their names, from the decoder's embeddings and head."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                    found[".".join(name.split(".")[-2:])] = file.get_tensor(name)
    return found


@pytest.mark.parametrize("spare", [0, SPARE])
def test_an_added_mask_token_has_a_row(settings, tmp_path, spare):
    source = save_parent("qwen2_5_vl", tmp_path / "parent", spare=spare)
    known = len(parent_tokenizer())
    made = translate(source, tmp_path / "made", settings("qwen2_5_vl"))
    assert (made.mask_token, made.mask_id, made.mask_added) == ("<|mask|>", known, True)
    before, after = weights(source), weights(tmp_path / "made")
    mean = before["embed_tokens.weight"][:known].mean(0)
    torch.testing.assert_close(after["embed_tokens.weight"][known], mean)
    assert torch.equal(after["embed_tokens.weight"][:known], before["embed_tokens.weight"][:known])
    if spare:
        assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    else:
        assert len(after["lm_head.weight"]) == known + 1
        torch.testing.assert_close(after["lm_head.weight"][known], before["lm_head.weight"].mean(0))
    model, processor = dvl_core.load_model(tmp_path / "made")
    assert processor.tokenizer.mask_token_id == model.config.mask_token_id == known
    assert processor.tokenizer.encode("a<|mask|>") == [processor.tokenizer.encode("a")[0], known]


def test_qwens_vocabulary_gets_the_published_id(tmp_path):
    """Ids as Qwen2.5's, an embedding padded to 151,936 rows: the mask token takes the published checkpoints' id."""
    tokenizer = qwen_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["added_tokens"] = [e for e in data["added_tokens"] if e["content"] not in ("<|mask|>", "<|image_pad|>")]
    data["added_tokens"][-1]["id"] = 151646
    for token in ("<|mask|>", "<|image_pad|>"):
        del data["model"]["vocab"][token]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["extra_special_tokens"] = ["<|im_start|>", "<|im_end|>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = make_vocabulary(tmp_path, 151936, None, "<|image_pad|>")
    assert (found.mask_id, found.image_id, found.rows) == (151671, 151655, 151936)
    assert found.added == (151655, 151671)
    text = "Sure?<|im_end|><|mask|><tool_call>"
    assert found.tokenizer.decode(found.tokenizer.encode(text)) == text
    assert found.tokenizer.convert_tokens_to_ids("<tool_call>") == AutoTokenizer.from_pretrained(
        tmp_path
    ).convert_tokens_to_ids("<tool_call>")


def test_configurations_and_names_of_older_files(settings, tmp_path):
    """Hub files of Qwen2.5-VL have the decoder's fields at the top, and names without `language_model`."""
    source = save_parent("qwen2_5_vl", tmp_path / "parent", tied=True, spare=0)
    config = json.loads((source / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {name: value for name, value in text.items() if name not in ("model_type", "architectures")}
    flat |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    config["vision_config"]["model_type"] = "qwen2_5_vl"
    (source / "config.json").write_text(json.dumps(flat | config | {"tie_word_embeddings": True}))
    translate(source, tmp_path / "made", settings("qwen2_5_vl"))
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
def test_a_trained_model_goes_back(translated, tmp_path, kind):
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
    assert type(plain) is next(family.stock for family in FAMILIES if family.source_type == kind)
    causal = model(**inputs, block_size=1).logits
    torch.testing.assert_close(parent_logits(plain, model, inputs), causal, atol=1e-5, rtol=0)


def test_the_published_layout_is_the_published_one(checkpoint_with_tokenizer, golden, tmp_path):
    """Names and configuration are those of the published files, whose fields are all there."""
    translate(checkpoint_with_tokenizer("qwenvl_tied"), tmp_path / "vl")
    config = json.loads((tmp_path / "vl" / "config.json").read_text())
    expected = vl_config(True)
    for part, fields in ((config, expected), (config["text_config"], expected["text_config"]),
                         (config["vision_config"], expected["vision_config"])):  # fmt: skip
        fields = {name: value for name, value in fields.items() if name not in ("text_config", "vision_config")}
        assert {name: part.get(name) for name in fields} == fields
    with safe_open(tmp_path / "vl" / "model.safetensors", "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    assert shapes == golden("keys_qwenvl_tied.json")
    pictures = json.loads((tmp_path / "vl" / "preprocessor_config.json").read_text())
    assert pictures["image_processor_type"] == "Qwen2VLImageProcessor"


def test_the_published_fields_of_the_language_family(translated):
    config = json.loads((translated("qwen2")[1] / "config.json").read_text())
    assert config["model_type"] == "diffusionvl_qwen" and config["architectures"] == ["DiffusionVLQwenForCausalLM"]
    assert (config["mm_projector_type"], config["image_aspect_ratio"]) == ("mlp2x_gelu", "anyres_max_4")
    assert config["rope_scaling"] is None and config["rope_theta"] == 1e4
    assert config["image_grid_pinpoints"][-1] == [96, 96]


def test_parent_block_size_and_dtype(translated, settings, tmp_path):
    source, _ = translated("qwen2")
    options = settings("qwen2", parent=True, block_size=4, dtype="bfloat16", seed=3)
    translate(source, tmp_path / "made", options)
    model, processor = dvl_core.load_model(tmp_path / "made", dtype=torch.bfloat16)
    assert not model.config.enable_bd3lm and model.config.bd3lm_block_size == 4
    assert next(model.steps(processor.apply_chat_template([ask("What?")]))).tokens.shape == (1, 1)
    with safe_open(next((tmp_path / "made").glob("*00001*")), "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}
    half = save_parent("qwen2", tmp_path / "half", dtype=torch.bfloat16)
    translate(half, tmp_path / "kept", settings("qwen2"))
    for path in (tmp_path / "kept").glob("*.safetensors"):  # the tower's float32 follows the decoder
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}


def test_drawn_weights_follow_the_seed(translated, settings, tmp_path):
    source, made = translated("qwen2")
    drawn = []
    for seed in (0, 1):
        translate(source, tmp_path / str(seed), settings("qwen2", seed=seed, max_shard_size="1MB"))
        drawn.append(dvl_core.load_model(tmp_path / str(seed))[0].mm_projector[0].weight)
    assert torch.equal(drawn[0], dvl_core.load_model(made)[0].mm_projector[0].weight)  # shards do not matter
    assert not torch.equal(*drawn) and drawn[0].abs().max() <= 16**-0.5


def test_sources_that_can_not_be_translated(translated, settings, tower, tmp_path):
    source, made = translated("qwen2_5_vl")
    language, _ = translated("qwen2")
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for given, options, words in (
        (tmp_path / "none", {}, "no folder"),
        (unknown, {}, "'llama' checkpoint.*qwen2_5_vl .*qwen2 .*qwen3_vl .*llava_onevision"),
        (source, {"vision_tower": str(tower)}, "leave --vision-tower out"),
        (source, {"layout": "stock"}, "plain qwen2_5_vl checkpoint already"),
        (language, {"vision_tower": None}, "give it eyes"),
        (language, {"vision_tower": str(source)}, "'qwen2_5_vl' checkpoint; it must be SigLIP"),
        (language, {"vision_tower": str(tmp_path / "none")}, "no folder"),
        (made, {}, "translated already: min_pixels, max_pixels can't be set"),
        (made, {"block_size": 4}, "block_size"),
    ):
        with pytest.raises(TranslationError, match=words):
            translate(given, tmp_path / "made", TranslationConfig(**SMALL | options))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["unknown"]
    with pytest.raises(TranslationError, match="exists already"):
        translate(source, made, settings("qwen2_5_vl"))
    with pytest.raises(CheckpointError, match="dvl_core.translate"):
        dvl_core.load_model(source)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: next(folder.glob("model-00002*")).unlink(), "lacks model-00002"),
        (lambda folder: next(folder.glob("model-00002*")).write_bytes(b"x" * 99), "damaged"),
        (lambda folder: [path.unlink() for path in folder.glob("model*")], "no .*safetensors"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "tokenizer"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "processor"),
        (lambda folder: (folder / "config.json").write_text("{"), "can't be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}'), "processor"),
    ],
)
def test_damaged_sources(settings, tmp_path, damage, words):
    source = save_parent("qwen2_5_vl", tmp_path / "parent")
    damage(source)
    with pytest.raises(TranslationError, match=words):
        translate(source, tmp_path / "made", settings("qwen2_5_vl"))
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_tensors_that_do_not_fit_are_named(translated, settings, tmp_path):
    source = save_parent("qwen2_5_vl", tmp_path / "parent")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    name = next(name for name in index["weight_map"] if name.endswith("layers.1.mlp.up_proj.weight"))
    path = source / index["weight_map"][name]
    with safe_open(path, "pt") as file:
        tensors = {("model.extra" if key == name else key): file.get_tensor(key) for key in file.keys()}
    writer.save_file(tensors, path)
    with pytest.raises(TranslationError, match=r"missing: \S+layers.1.mlp.up_proj.weight; unexpected: model.extra"):
        translate(source, tmp_path / "made", settings("qwen2_5_vl"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("layout", "other"), ("dtype", "int8"), ("block_size", 0), ("mask_token", "mask"), ("max_shard_size", "5"),
     ("max_shard_size", "0MB"), ("min_pixels", 0), ("max_pixels", 3)],
)  # fmt: skip
def test_settings_validate_themselves(field, value):
    with pytest.raises(ValueError, match=field):
        TranslationConfig(**{field: value})


def test_the_command(translated, tower, tmp_path, capsys):
    source, made = translated("qwen2")
    options = ["--vision-tower", str(tower), "--max-shard-size", "0.05MB", "--min-pixels", "64", "--max-pixels", "1024"]
    assert main([str(source), str(tmp_path / "made"), *options]) == 0
    shown = capsys.readouterr()
    assert "diffusionvl_qwen, 81 tensors" in shown.out and "mask token <|mask|> added" in shown.out
    assert "translating" in shown.err and "100%" in shown.err
    assert digest(tmp_path / "made") == digest(made)
    assert main([str(source), str(tmp_path / "made"), *options]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "other"), "--block-size", "0"]) == 2
    assert "block_size must be 1 or more" in capsys.readouterr().err


def test_families_are_registered_once():
    types = [family.config.model_type for family in FAMILIES] + [family.source_type for family in FAMILIES]
    assert len(set(types)) == len(types)
    for family in FAMILIES:
        assert issubclass(family.model, family.stock or object)
        assert sys.modules[family.model.__module__].__doc__
