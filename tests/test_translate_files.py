"""Translation as a command: interrupted, bounded in memory, refused, its tokens and its published layout."""

import hashlib
import json
import re
import sys
import weakref

import pytest
import torch
from fixtures import vl_config
from parents import ADDED, PARENTS, SPARE, ask, parent_tokenizer, save_parent
from qwen_tokenizer import qwen_tokenizer
from safetensors import safe_open
from transformers import AutoTokenizer

import dvl_core
from dvl_core.families import FAMILIES
from dvl_core.models.checkpoint import CheckpointError
from dvl_core.translate import main
from dvl_core.translation import TranslationConfig, TranslationError, plan, translate, writer
from dvl_core.translation import source as reading
from dvl_core.translation.vocabulary import make_vocabulary


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2"])
def test_an_interrupted_run_leaves_nothing_and_goes_on(translated, small_translation, tmp_path, monkeypatch, kind):
    source, whole = translated(kind)
    destination, working = tmp_path / "made", tmp_path / ".made.translating"
    written, save = [], writer.save_file

    def until_the_third(tensors, path, metadata):
        if len(written) == 2:
            path.write_bytes(b"half a shard")
            path.with_name(".tmp4711").write_bytes(b"as safetensors leaves it when it is killed")
            raise KeyboardInterrupt
        written.append(path.name)
        save(tensors, path, metadata)

    monkeypatch.setattr(writer, "save_file", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        translate(source, destination, small_translation(kind))
    assert not destination.exists() and len(list(working.glob("*.safetensors"))) == 2
    with pytest.raises(CheckpointError):
        dvl_core.load_model(working)

    def count(tensors, path, metadata):
        written.append(path.name)
        save(tensors, path, metadata)

    monkeypatch.setattr(writer, "save_file", count)
    made = translate(source, destination, small_translation(kind))
    assert len(written) == len(set(written)) == made.shards  # no shard was written twice
    assert digest(destination) == digest(whole)
    assert not working.exists()
    modes = {path.stat().st_mode for path in destination.iterdir()}
    assert len(modes) == 1  # safetensors by itself writes files that nobody else may read


def test_a_working_folder_of_another_plan_is_begun_anew(translated, small_translation, tmp_path, monkeypatch):
    source, whole = translated("qwen2_5_vl")

    def stop(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(writer.ShardWriter, "finish", stop)
        with pytest.raises(OSError, match="disk full"):
            translate(source, tmp_path / "made", small_translation("qwen2_5_vl", dtype="bfloat16"))
    translate(source, tmp_path / "made", small_translation("qwen2_5_vl"))
    assert digest(tmp_path / "made") == digest(whole)


def test_no_more_than_a_shard_is_held(translated, small_translation, tmp_path, monkeypatch):
    """Tensors alive at once, from reading to saving: a shard, and the tensor being converted."""
    source, _ = translated("qwen2_5_vl")
    alive, most, largest = {}, [0], [0]

    def watched(tensor):
        size, key = tensor.numel() * tensor.element_size(), object()
        alive[key] = size
        weakref.finalize(tensor, alive.pop, key)
        most[0], largest[0] = max(most[0], sum(alive.values())), max(largest[0], size)
        return tensor

    read, make = reading.CheckpointReader.read, plan.Recipe.make
    monkeypatch.setattr(reading.CheckpointReader, "read", lambda self, stored: watched(read(self, stored)))
    monkeypatch.setattr(plan.Recipe, "make", lambda self, reader: watched(make(self, reader)))
    limit = 60_000
    made = translate(source, tmp_path / "made", small_translation("qwen2_5_vl", max_shard_size="0.06MB"))
    assert made.shards >= 4 and made.bytes > 3 * limit
    assert most[0] <= limit + 2 * largest[0] < made.bytes / 1.5
    for path in (tmp_path / "made").glob("*.safetensors"):
        assert path.stat().st_size < limit + largest[0] + 10_000


def test_the_mask_token_that_is_there_is_taken(small_translation, tmp_path):
    source = save_parent("qwen2_5_vl", tmp_path / "parent")
    tokenizer = parent_tokenizer((*ADDED, "<|mdm|>"))
    tokenizer.save_pretrained(source)
    made = translate(source, tmp_path / "named", small_translation("qwen2_5_vl", mask_token="<|mdm|>"))
    assert (made.mask_token, made.mask_added) == ("<|mdm|>", False)
    assert made.mask_id == tokenizer.convert_tokens_to_ids("<|mdm|>")
    assert torch.equal(*(weights(folder)["embed_tokens.weight"] for folder in (source, tmp_path / "named")))
    tokenizer.mask_token = "<|mdm|>"
    tokenizer.save_pretrained(source)
    assert translate(source, tmp_path / "own", small_translation("qwen2_5_vl")).mask_token == "<|mdm|>"
    again = AutoTokenizer.from_pretrained(tmp_path / "own")
    assert again.mask_token_id == made.mask_id


@pytest.mark.parametrize("kind", PARENTS)
def test_a_mask_token_that_is_something_else_is_refused(translated, small_translation, tmp_path, kind):
    image = "<image>" if kind == "llava_onevision" else "<|image_pad|>"
    for token in ("<|im_end|>", "<|im_start|>", "<|endoftext|>", image):
        with pytest.raises(TranslationError, match=re.escape(f"mask_token: {token} ends turns")):
            translate(translated(kind)[0], tmp_path / "made", small_translation(kind, mask_token=token))
    assert not list(tmp_path.iterdir())


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
def test_an_added_mask_token_has_a_row(small_translation, tmp_path, spare):
    source = save_parent("qwen2_5_vl", tmp_path / "parent", spare=spare)
    known = len(parent_tokenizer())
    made = translate(source, tmp_path / "made", small_translation("qwen2_5_vl"))
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


def test_parent_block_size_and_dtype(translated, small_translation, tmp_path):
    source, _ = translated("qwen2")
    options = small_translation("qwen2", parent=True, block_size=4, dtype="bfloat16", seed=3)
    translate(source, tmp_path / "made", options)
    model, processor = dvl_core.load_model(tmp_path / "made", dtype=torch.bfloat16)
    assert not model.config.enable_bd3lm and model.config.bd3lm_block_size == 4
    assert next(model.steps(processor.apply_chat_template([ask("What?")]))).tokens.shape == (1, 1)
    with safe_open(next((tmp_path / "made").glob("*00001*")), "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}
    half = save_parent("qwen2", tmp_path / "half", dtype=torch.bfloat16)
    translate(half, tmp_path / "kept", small_translation("qwen2"))
    for path in (tmp_path / "kept").glob("*.safetensors"):  # the tower's float32 follows the decoder
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}


def test_drawn_weights_follow_the_seed(translated, small_translation, tmp_path):
    source, made = translated("qwen2")
    drawn = []
    for seed in (0, 1):
        translate(source, tmp_path / str(seed), small_translation("qwen2", seed=seed, max_shard_size="1MB"))
        drawn.append(dvl_core.load_model(tmp_path / str(seed))[0].mm_projector[0].weight)
    assert torch.equal(drawn[0], dvl_core.load_model(made)[0].mm_projector[0].weight)  # shards do not matter
    assert not torch.equal(*drawn) and drawn[0].abs().max() <= 16**-0.5


def test_sources_that_can_not_be_translated(translated, small_translation, siglip, tmp_path):
    source, made = translated("qwen2_5_vl")
    language, _ = translated("qwen2")
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for given, options, words in (
        (tmp_path / "none", {}, "no folder"),
        (unknown, {}, "'llama' checkpoint.*qwen2_5_vl .*qwen2 .*qwen3_vl .*llava_onevision"),
        (source, {"vision_tower": str(siglip)}, "leave --vision-tower out"),
        (source, {"layout": "stock"}, "plain qwen2_5_vl checkpoint already"),
        (language, {"vision_tower": None}, "give it eyes"),
        (language, {"vision_tower": str(source)}, "'qwen2_5_vl' checkpoint; it must be SigLIP"),
        (language, {"vision_tower": str(tmp_path / "none")}, "no folder"),
        (made, {}, "translated already: min_pixels, max_pixels can't be set"),
        (made, {"block_size": 4}, "block_size"),
    ):
        with pytest.raises(TranslationError, match=words):
            translate(given, tmp_path / "made", small_translation("qwen2_5_vl", **options))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["unknown"]
    with pytest.raises(TranslationError, match="exists already"):
        translate(source, made, small_translation("qwen2_5_vl"))
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
        (lambda folder: (folder / "config.json").write_text('{"model_type": "qwen2_5_vl", "hidden_size": "x"}'),
         r"config.json is not valid: .*'hidden_size' expected int"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "index.json lists no tensors"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "index.json lists no tensors"),
    ],
)
def test_damaged_sources(small_translation, tmp_path, damage, words):
    source = save_parent("qwen2_5_vl", tmp_path / "parent")
    damage(source)
    with pytest.raises(TranslationError, match=words):
        translate(source, tmp_path / "made", small_translation("qwen2_5_vl"))
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_tensors_that_do_not_fit_are_named(translated, small_translation, tmp_path):
    source = save_parent("qwen2_5_vl", tmp_path / "parent")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    name = next(name for name in index["weight_map"] if name.endswith("layers.1.mlp.up_proj.weight"))
    path = source / index["weight_map"][name]
    with safe_open(path, "pt") as file:
        tensors = {("model.extra" if key == name else key): file.get_tensor(key) for key in file.keys()}
    writer.save_file(tensors, path)
    with pytest.raises(TranslationError, match=r"missing: \S+layers.1.mlp.up_proj.weight; unexpected: model.extra"):
        translate(source, tmp_path / "made", small_translation("qwen2_5_vl"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("layout", "other"), ("dtype", "int8"), ("block_size", 0), ("block_size", 4097), ("mask_token", "mask"),
     ("max_shard_size", "5"), ("max_shard_size", "0MB"), ("min_pixels", 0), ("max_pixels", 3)],
)  # fmt: skip
def test_settings_validate_themselves(field, value):
    with pytest.raises(ValueError, match=field):
        TranslationConfig(**{field: value})


def test_the_command(translated, siglip, tmp_path, capsys):
    source, made = translated("qwen2")
    options = f"--vision-tower {siglip} --max-shard-size 0.05MB --min-pixels 64 --max-pixels 1024".split()
    assert main([str(source), str(tmp_path / "made"), *options]) == 0
    shown = capsys.readouterr()
    assert "diffusionvl_qwen, 81 tensors" in shown.out and "mask token <|mask|> added" in shown.out
    assert "translating" in shown.err and "100%" in shown.err
    assert digest(tmp_path / "made") == digest(made)
    assert main([str(source), str(tmp_path / "made"), *options]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "other"), "--block-size", "0"]) == 2
    assert "block_size must be a whole number from 1 to 4096; got 0." in capsys.readouterr().err


def test_a_stopped_command_says_how_to_go_on(translated, tmp_path, capsys, monkeypatch):
    source, _ = translated("qwen3_vl")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "save_file", stop)
    assert main([str(source), str(tmp_path / "made"), "--quiet"]) == 130
    shown = capsys.readouterr()
    assert "the same command goes on" in shown.err and "translating" not in shown.err


def test_repositories_are_downloaded(translated, small_translation, tmp_path, monkeypatch):
    parent, whole = translated("qwen3_vl")
    asked = []

    def download(repository, allow_patterns):
        asked.append(repository)
        assert "*.safetensors" in allow_patterns and not any("bin" in pattern for pattern in allow_patterns)
        return str(parent)

    monkeypatch.setattr(reading, "snapshot_download", download)
    translate("somebody/some-model", tmp_path / "made", small_translation("qwen3_vl"))
    assert asked == ["somebody/some-model"] and digest(tmp_path / "made") == digest(whole)


def test_a_repository_that_can_not_be_reached(tmp_path, monkeypatch):
    def download(*_, **__):
        raise OSError("connection refused\nand advice")

    monkeypatch.setattr(reading, "snapshot_download", download)
    words = r"somebody/some-model can't be downloaded \(connection refused\): check the name and the network"
    with pytest.raises(TranslationError, match=words):
        translate("somebody/some-model", tmp_path / "made")


def test_families_are_registered_once():
    types = [family.config.model_type for family in FAMILIES] + [family.source_type for family in FAMILIES]
    assert len(set(types)) == len(types)
    for family in FAMILIES:
        assert issubclass(family.model, family.stock or object)
        assert sys.modules[family.model.__module__].__doc__
