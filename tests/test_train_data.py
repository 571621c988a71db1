"""Settings, LLaVA files and the order of training: what is refused, what is skipped, what comes when."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dvl_core import load_model
from dvl_core.training.config import DataConfig, ObjectiveConfig, TrainConfig, load_config, same_run
from dvl_core.training.llava import LlavaSamples, SampleError, to_messages
from dvl_core.training.objective import IGNORE
from dvl_core.training.rows import RowEncoder, collate
from dvl_core.training.settings import ConfigError, build, differences, plain
from dvl_core.training.stream import Order, Plan, SlotBatches, SlotRows, open_data

GOOD = {
    "model": "m", "output": "o", "batch": 8, "micro_batch": 2, "data": {"kind": "tinyworld"},
    "schedule": {"steps": 10},
}  # fmt: skip


def with_field(path: str, value):
    values = json.loads(json.dumps(GOOD))
    *groups, last = path.split(".")
    place = values
    for group in groups:
        place = place.setdefault(group, {})
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("optimiser", {}, "did you mean optimizer"),
        ("optimizer.lr.visoin", 1e-6, "did you mean optimizer.lr.vision"),
        ("optimizer.lr.language", "fast", "a finite number"),
        ("schedule.warmup", ".inf", "a finite number"),
        ("lora.alpha", float("inf"), "a finite number"),
        ("data.picture_size", 64, "at least 128 pixels"),
        ("optimizer.lr.language", -1, "frozen"),
        ("optimizer.name", "sgd", "adamw, muon"),
        ("optimizer.betas", [0.9], "list of 2"),
        ("schedule.epochs", 1, "either steps or epochs"),
        ("schedule.warmup", 1.5, "from 0 to below 1"),
        ("batch", 7, "multiple of micro_batch"),
        ("batch", 8.0, "whole number"),
        ("data.kind", "coco", "llava, tinyworld"),
        ("data.files", ["a.json"], "leave it out"),
        ("data.held_out", 5, "kind: llava"),
        ("objective.block_size", 0, "from 1 to 512"),
        ("objective.beta_noise.mean", [0.5, 1.5], "between 0 and 1"),
        ("objective.ar_weight", 1.0, "kind: autoregressive"),
        ("lora", 8, "mapping"),
        ("ema_decay", 1.0, "below 1"),
        ("gradient_checkpointing", "yes please", "true or false"),
        ("attention", "flash", "one of auto, dense, flex"),
        ("evaluation.tasks", ["copy"], "every is above 0"),
    ],
)
def test_bad_fields_are_refused_by_name(path, value, said):
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, with_field(path, value))
    shown = "schedule.steps" if path == "schedule.epochs" else path
    assert str(caught.value).startswith(f"{shown}=") and said in str(caught.value)


def test_missing_fields_and_uneven_batches_are_named():
    with pytest.raises(ConfigError, match="schedule=None: is missing"):
        build(TrainConfig, {k: v for k, v in GOOD.items() if k != "schedule"})
    with pytest.raises(ConfigError, match=r"data.files=\(\): name at least one"):
        build(TrainConfig, with_field("data", {"kind": "llava"}))
    with pytest.raises(ConfigError, match="schedule.epochs=2.0: TinyWorld has no end"):
        build(TrainConfig, GOOD | {"schedule": {"epochs": 2}})
    llava = {"kind": "llava", "files": ["a.json"]}
    for data, evaluation in ((llava, {"every": 5}), (GOOD["data"], {"every": 5, "rows": 0})):
        with pytest.raises(ConfigError, match="evaluation.every=5: there is nothing to measure: set data.held_out"):
            build(TrainConfig, GOOD | {"data": data, "evaluation": evaluation})
    config = build(TrainConfig, GOOD)
    assert config.accumulation(2) == 2
    with pytest.raises(ConfigError, match="batch=8: .* processes"):
        config.accumulation(3)


def test_yaml_json_and_overrides(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\noutput: o\nbatch: 8\nmicro_batch: 2\ndata: {kind: tinyworld}\nschedule: {steps: 3}\n"
                    "optimizer: {lr: {language: 1e-5}}\n")  # YAML reads 1e-5 as text
    config = load_config(file, ["optimizer.lr.vision=0", "lora.rank=4", "evaluation.every=5",
                                "evaluation.tasks=[word, copy]"])
    assert config.optimizer.lr.language == 1e-5 and config.optimizer.lr.vision == 0
    assert config.lora.rank == 4 and config.evaluation.tasks == ("word", "copy")
    (tmp_path / "run.json").write_text(json.dumps(plain(config)))
    assert load_config(tmp_path / "run.json") == config
    with pytest.raises(ConfigError, match="--set='batch'"):
        load_config(file, ["batch"])
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path / "no.yaml")
    file.write_text("model: m\noutput: [o\nbatch: 8\n")
    for name, text in (("twice.yaml", "batch: 4\noptimizer: {clip: 1}\noptimizer: {clip: 2}\n"),
                       ("twice.json", '{"optimizer": {"clip": 1}, "optimizer": {"clip": 2}}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="optimizer is there twice"):
            load_config(tmp_path / name)
    (tmp_path / "merged.yaml").write_text("a: &a {clip: 1}\nb: {<<: *a, clip: 2}\n")
    with pytest.raises(ConfigError, match="unknown field"):  # a field that stands before a merged one is no double
        load_config(tmp_path / "merged.yaml")
    with pytest.raises(ConfigError, match="run.yaml': is not valid YAML: .* in line 3"):
        load_config(file)
    file.write_text("model: m\nseed: 2020-01-01\n")
    with pytest.raises(ConfigError, match="output=None: is missing"):
        load_config(file)
    file.write_bytes("model: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="run.yaml': is no text in UTF-8"):
        load_config(file)


def test_only_what_is_trained_decides_whether_a_run_is_the_same():
    one = same_run(plain(build(TrainConfig, GOOD)))
    for field, value in (("logging.every", 1), ("micro_batch", 4), ("data.workers", 0), ("output", "elsewhere"),
                         ("attention", "dense")):
        assert one == same_run(plain(build(TrainConfig, with_field(field, value))))
    other = same_run(plain(build(TrainConfig, with_field("optimizer.lr.language", 2e-5))))
    assert differences(one, other) == ["optimizer.lr.language is 1e-05 there and 2e-05 here"]


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def test_llava_samples_become_messages(tmp_path):
    sample = {"id": 1, "image": ["a.png", "b.png"],
              "conversations": turns("<image>\nWhat?", "A cat.", "And in <image> this one?", "A dog.", "Bye")}
    first, answer, second, last = to_messages(sample, tmp_path)
    assert first["content"] == [{"type": "image", "image": str(tmp_path / "a.png")}, {"type": "text", "text": "What?"}]
    assert answer == {"role": "assistant", "content": "A cat."} and last["content"] == "A dog."
    assert second["content"][1]["text"] == "And in\nthis one?"
    without_place = to_messages({"image": "a.png", "conversations": turns("What?", "A cat.")})
    assert without_place[0]["content"][0] == {"type": "image", "image": "a.png"}
    words = to_messages({"conversations": [{"from": "system", "value": "Be kind."}, *turns("Hi", "Hello")]})
    assert [m["role"] for m in words] == ["system", "user", "assistant"]
    for bad, said in (
        ({}, "no conversations"), ({"conversations": turns("Hi")}, "no answer"),
        ({"conversations": turns("<image>", "A cat.")}, "1 times <image> and 0 pictures"),
        ({"conversations": [*turns("Hi", "Hello"), *turns("a", "b")[1:]]}, "alternate"),
        ({"conversations": [{"from": "cat", "value": "miaow"}]}, "human or gpt"),
        ({"conversations": [{"from": ["human"], "value": "Hi"}]}, "human or gpt"),
        *(({"image": image, "conversations": turns("Hi", "A")}, "no path") for image in (5, True, [None], {"a": 1})),
    ):  # fmt: skip
        with pytest.raises(SampleError, match=said):
            to_messages(bad)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_files_are_indexed_without_being_loaded(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("dvl_core.training.llava._CHUNK", 50)  # so that samples cross the edges of chunks
    samples = [{"id": f"é{n}", "note": "a ] tricky [ \"string\", ✓" * (n % 4)} for n in range(23)]
    file = tmp_path / f"set.{suffix}"
    samples[2]["id"] = None
    text = json.dumps(samples, ensure_ascii=False, indent=1) if suffix == "json" else "\n".join(
        json.dumps(sample, ensure_ascii=False) for sample in samples)
    file.write_text(text, encoding="utf-8")
    opened = LlavaSamples((str(file), str(file)))
    assert len(opened) == 46 and opened.read(45) == samples[-1]
    assert [opened.read(n) for n in range(23)] == samples and opened.name(26) == "é3"
    assert opened.name(25) == f"set.{suffix} #2"


def test_files_that_hold_no_samples_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"id": 1}')
    (tmp_path / "b.jsonl").write_text("\n")
    (tmp_path / "c.json").write_text('[{"id": 1}, {"id"')
    for name in ("a.json", "b.jsonl", "c.json", "d.json"):
        with pytest.raises(ConfigError, match="data.files="):
            LlavaSamples((str(tmp_path / name),))
    with pytest.raises(ConfigError, match="data.image_folder="):
        open_data(DataConfig("llava", ("a.json",), "nowhere"), 0)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """30 samples, of which #3 has a damaged picture, #7 none, #11 no answer."""
    folder = tmp_path_factory.mktemp("llava")
    samples = []
    for number in range(30):
        Image.new("RGB", (40 + number, 50), (number * 8, 90, 30)).save(folder / f"{number}.png")
        samples.append({"id": f"s{number}", "image": f"{number}.png",
                        "conversations": turns("<image>\nWhat is this?", "A cat.", "Sure?", f"the picture {number}")})
    (folder / "3.png").write_bytes(b"\x89PNG not really")
    (folder / "7.png").unlink()
    samples[11]["conversations"] = turns("<image>\nWhat is this?")
    (folder / "set.json").write_text(json.dumps(samples))
    return folder


@pytest.fixture(scope="module")
def encoders(checkpoint_with_tokenizer):
    """Row encoders of both families."""
    made = {}
    for family, name in (("vl", "qwenvl_untied"), ("lm", "qwenlm_untied")):
        model, processor = load_model(checkpoint_with_tokenizer(name), device="cpu")
        made[family] = RowEncoder(processor, model.eos_token_ids[0], None)
    return made


def slot_rows(folder, encode, seed=0, **plan):
    data = open_data(DataConfig("llava", (str(folder / "set.json"),), str(folder)), seed)
    plan = Plan(**{"batch": 4, "updates": 100, "seed": seed, "block_size": 8, "objective": ObjectiveConfig(), **plan})
    return SlotRows(data.train, data.train_order, encode, plan)


@pytest.mark.parametrize("family", ["vl", "lm"])
def test_rows_say_what_inference_is_asked(llava, encoders, family):
    encode = encoders[family]
    processor = encode.processor
    conversation = LlavaSamples((str(llava / "set.json"),), str(llava)).messages(5)
    row = encode(conversation, 8)
    prompt = processor.apply_chat_template(conversation[:-1])["input_ids"][0]
    assert torch.equal(row.ids[: len(prompt)], prompt)
    learnt = row.ids[row.labels != IGNORE]
    assert torch.equal(learnt, row.labels[row.labels != IGNORE])
    text = processor.tokenizer.decode(learnt)
    assert text.startswith("A cat.<|im_end|>the picture 5<|im_end|>") and len(row.ids) % 8 == 0
    ends = row.ids[row.length :]
    assert (ends == encode.eos_id).all() and (row.labels[row.length :] == encode.eos_id).all()
    assert row.turn[0] == 0 and row.turn[len(prompt)] == 1 and row.turn[row.length - 1] == 1
    assert len(encode(conversation, None).ids) == row.length


def test_long_conversations_lose_later_turns(llava, encoders):
    encode = RowEncoder(encoders["vl"].processor, encoders["vl"].eos_id, None)
    conversation = LlavaSamples((str(llava / "set.json"),), str(llava)).messages(5)
    whole = encode(conversation, None).length
    encode.max_length = whole - 3
    row = encode(conversation, None)
    assert encode.processor.tokenizer.decode(row.labels[row.labels != IGNORE]) == "A cat.<|im_end|>"
    encode.max_length = 16
    with pytest.raises(ValueError, match="tokens long"):
        encode(conversation, None)


def test_unusable_samples_are_replaced_and_named(llava, encoders):
    rows = slot_rows(llava, encoders["vl"])
    seen = [rows[slot] for slot in range(30)]
    skipped = dict(skip for row in seen for skip in row.skipped)
    assert {"s3", "s7", "s11"} <= set(skipped)
    assert "no answer" in skipped["s11"] and "7.png" in skipped["s7"]
    batch = collate(seen[:4], 0)
    assert batch["input_ids"].shape == batch["labels"].shape and batch["pictures"]["image_grid_thw"].shape == (4, 3)
    assert not batch["labels"][~batch["attention_mask"]].ne(IGNORE).any()
    broken = slot_rows(llava, encoders["vl"])
    broken.source.folder = llava / "nowhere"
    with pytest.raises(ValueError, match="in a row can't be used.*data.image_folder"):
        broken[0]


def test_every_pass_is_shuffled_anew_and_complete():
    order = Order(np.arange(10), 3)
    first, second = ([order.index(slot) for slot in range(start, start + 10)] for start in (0, 10))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert [Order(np.arange(10), 3).index(slot) for slot in range(10)] == first
    assert [Order(np.arange(10), 4).index(slot) for slot in range(10)] != first


def test_processes_share_the_slots_of_an_update():
    alone = list(SlotBatches(3, 5, 12, 6, 0, 1))
    assert alone == [list(range(36, 42)), list(range(42, 48)), list(range(48, 54)), list(range(54, 60))]
    shares = [list(SlotBatches(3, 5, 12, 3, rank, 2)) for rank in (0, 1)]
    assert len(shares[0]) == len(SlotBatches(3, 5, 12, 3, 0, 2)) == 4
    assert sorted(slot for share in shares for micro in share for slot in micro) == list(range(36, 60))
    assert shares[0][0] == [36, 37, 38] and shares[1][0] == [39, 40, 41]


def test_a_slot_is_the_same_whoever_asks(llava, encoders):
    one, two = (slot_rows(llava, encoders["vl"])[13] for _ in range(2))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.token_uniform, two.token_uniform)
    assert torch.equal(one.block_uniform, two.block_uniform)
    other = slot_rows(llava, encoders["vl"], seed=1)[13]
    assert len(other.token_uniform) != len(one.token_uniform) or not torch.equal(other.token_uniform, one.token_uniform)


def test_held_out_samples_are_never_trained_on(llava):
    config = DataConfig("llava", (str(llava / "set.json"),), str(llava), held_out=6, samples=10)
    data = open_data(config, 0)
    kept = set(data.held_out_order.indices.tolist())
    trained = {data.train_order.index(slot) for slot in range(50)}
    assert len(kept) == 6 and len(trained) == data.size == 10 and not kept & trained
    with pytest.raises(ConfigError, match="data.held_out=30: must be below the number of samples, 30"):
        open_data(replace(config, held_out=30), 0)


def test_annealed_blocks_align_rows_to_their_own_size(llava, encoders):
    rows = slot_rows(llava, encoders["vl"], updates=3, objective=ObjectiveConfig(block_annealing=True))
    assert [rows.plan.block_at(update) for update in range(3)] == [2, 4, 8]
    assert len(rows[0].ids) % 2 == 0 and len(rows[11].ids) % 8 == 0
    assert len(rows[0].block_uniform) == len(rows[0].ids) // 2


def test_tinyworld_rows():
    data = open_data(DataConfig("tinyworld", first_seed=7), 0)
    messages = data.train.messages(0)
    picture = messages[0]["content"][0]["image"]
    assert max(picture.size) == 192 and messages[-1]["role"] == "assistant"
    assert data.size is None and data.train.name(2) == "tinyworld train 9"
    assert data.held_out.split == "test"
    assert open_data(DataConfig("tinyworld", samples=5), 0).train_order.index(12) < 5
