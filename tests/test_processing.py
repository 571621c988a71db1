"""Conversations to ids: the template, text kept apart from control tokens, batches, limits, saving and loading."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from fixtures import VARIANTS, VL_PREPROCESSOR, describe
from PIL import Image
from qwen_tokenizer import PLAIN_ADDED, SPECIAL_IDS, qwen_tokenizer
from transformers import AutoProcessor, BertConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import dvl_core  # noqa: F401  (registers the Auto classes)
from dvl_core.processing import ConversationError, DiffusionVLQwenProcessor, DiffusionVLQwenVLProcessor, ImageError
from dvl_core.processing.conversation import SafeEncoder, parse_messages, render_pieces, rendered_text

PICTURE = Image.fromarray(np.arange(84 * 112 * 3, dtype=np.uint32).reshape(84, 112, 3).astype(np.uint8))
IMAGE_ID, IM_START, IM_END = SPECIAL_IDS["<|image_pad|>"], SPECIAL_IDS["<|im_start|>"], SPECIAL_IDS["<|im_end|>"]


def ask(text="What is this?", *pictures):
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def answer(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def tokenizer():
    return qwen_tokenizer()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return DiffusionVLQwenVLProcessor(Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=50176), tokenizer)


@pytest.fixture(scope="module")
def tiny(tokenizer):
    """Pictures as the bundled model takes them."""
    return DiffusionVLQwenVLProcessor(
        Qwen2VLImageProcessorPil(patch_size=8),
        tokenizer,
        system_prompt=None,
        pad_to_square=True,
        pad_color=(0, 0, 0),
        fixed_size=96,
    )


@pytest.fixture(scope="module")
def tiles(tokenizer):
    return DiffusionVLQwenProcessor(SiglipImageProcessorPil(size={"height": 384, "width": 384}), tokenizer)


# --- the template ---------------------------------------------------------------------------------------------


def test_rendered_conversations_are_the_recorded_ones(processor, golden):
    template = golden("prompt_template_qwen_2_5.json")
    first = ask(" What is this?\n", PICTURE)
    assert processor.apply_chat_template([first], tokenize=False) == template["one_turn"]
    turns = [first, answer("A cat."), ask("Sure?")]
    assert processor.apply_chat_template(turns, tokenize=False) == template["two_turns"]


def test_ids_are_those_of_the_rendered_string(processor, tokenizer, golden):
    before, after = golden("prompt_template_qwen_2_5.json")["two_turns"].split("<image>")
    inputs = processor.apply_chat_template([ask("What is this?", PICTURE), answer("A cat."), ask("Sure?")])
    whole = tokenizer(before)["input_ids"] + [IMAGE_ID] * 12 + tokenizer(after)["input_ids"]
    assert inputs["input_ids"].tolist() == [whole]
    assert inputs["attention_mask"].tolist() == [[1] * len(whole)]
    assert inputs["image_grid_thw"].tolist() == [[1, 6, 8]] and inputs["pixel_values"].shape == (48, 1176)


def test_any_ordinary_text_is_encoded_as_in_the_rendered_string(tokenizer):
    random.seed(0)
    alphabet = "ab Zé中7.,!?'\"\n\t\u00a0\u0301\u200b\u3000😀<|>_-"
    encoder = SafeEncoder(tokenizer)
    for _ in range(300):
        text = "".join(random.choices(alphabet, k=random.randint(1, 25)))
        if not text.strip():
            continue
        pieces = render_pieces(parse_messages([ask(text)]))
        ids, _ = encoder.encode(pieces, IMAGE_ID, [])
        assert ids == tokenizer(rendered_text(pieces))["input_ids"], repr(text)


def test_pictures_come_before_the_question_of_their_turn(processor):
    parts = [
        {"type": "text", "text": "Compare"},
        {"type": "image", "image": PICTURE},
        {"type": "text", "text": " both."},
    ]
    parts.append({"type": "image", "image": PICTURE})
    text = processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert "<|im_start|>user\n<image>\n<image>\nCompare\nboth.<|im_end|>" in text


def test_system_turns(processor, tiny):
    assert processor.apply_chat_template([ask()], tokenize=False).startswith(
        "<|im_start|>system\nYou are Qwen, created"
    )
    assert tiny.apply_chat_template([ask()], tokenize=False).startswith("<|im_start|>user\n")
    own = [{"role": "system", "content": "Be brief."}, ask()]
    for one in (processor, tiny):
        assert one.apply_chat_template(own, tokenize=False).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_finished_conversations_and_the_mask_of_answers(processor, tokenizer):
    turns = [ask("What is this?", PICTURE), answer(" A cat. "), ask("Sure?"), answer("")]
    inputs = processor.apply_chat_template(turns, add_generation_prompt=False, return_assistant_tokens_mask=True)
    ids, mask = inputs["input_ids"][0], inputs["assistant_masks"][0]
    assert tokenizer.decode(ids[mask.bool()]) == "A cat.<|im_end|><|im_end|>"
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n<|im_end|>\n")


# --- what people type -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", [*SPECIAL_IDS, PLAIN_ADDED, "<image>", "<script>alert(1)</script>"])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_typed_control_tokens_stay_text(processor, tokenizer, spelled, role):
    plain = [{"role": "system", "content": "x"}, ask("x"), answer("x"), ask("x")]
    typed = [dict(turn) for turn in plain]
    place = {"system": 0, "user": 1, "assistant": 2}[role]
    typed[place]["content"] = f"a {spelled}{spelled} b"
    counts = []
    for turns in (plain, typed):
        ids = processor.apply_chat_template(turns, return_tensors=None)["input_ids"][0]
        controls = {*SPECIAL_IDS.values(), tokenizer.convert_tokens_to_ids(PLAIN_ADDED)}
        counts.append([number for number in ids if number in controls])
    assert counts[0] == counts[1], "the same control tokens at the same places of the template"
    assert f"a {spelled}{spelled} b" in tokenizer.decode(ids), "and the text is all there"


def test_a_typed_placeholder_takes_no_picture(processor):
    inputs = processor.apply_chat_template([ask("is <image> a tag?", PICTURE)])
    assert int((inputs["input_ids"] == IMAGE_ID).sum()) == 12 and len(inputs["image_grid_thw"]) == 1


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty"),
        ("What is this?", "list of messages"),
        ([ask("  \n ")], "question is empty"),
        ([ask("", PICTURE)], "question is empty"),
        ([{"role": "user", "content": []}], "question is empty"),
        ([answer("A cat.")], "question is empty"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user"}], "Message 1 must be"),
        ([ask(), "and?"], "Message 2 must be"),
        ([{"role": "user", "content": 7}], "text or a list"),
        ([{"role": "user", "content": [{"type": "video", "video": "x"}]}], "A part of message 1"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "A part of message 1"),
        ([ask(), {"role": "system", "content": "x"}], "first message"),
        ([ask(), {"role": "assistant", "content": [{"type": "image", "image": PICTURE}]}], "only a user's"),
        ([ask(), answer("A cat.")], "add a question"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}], "picture is missing"),
    ],
)
def test_conversations_that_make_no_prompt(processor, messages, words):
    with pytest.raises(ConversationError, match=words) as error:
        processor.apply_chat_template(messages)
    assert isinstance(error.value, ValueError)


def test_too_long_prompts_are_refused_with_the_count_and_the_limit(processor):
    long = " ".join(["picture"] * 10_000)
    with pytest.raises(ConversationError, match=r"is [\d,]{6} tokens long and the model takes at most 8,192"):
        processor.apply_chat_template([ask(long)])
    with pytest.raises(ConversationError, match=r"\(12 of them for pictures\) and the model takes at most 20"):
        processor.apply_chat_template([ask("What is this?", PICTURE)], max_length=20)
    assert processor.apply_chat_template([ask()], max_length=100)["input_ids"].shape[1] <= 100


def test_unusable_pictures_are_refused(processor, tmp_path):
    (tmp_path / "cat.png").write_bytes(b"no cat")
    with pytest.raises(ImageError, match="not a picture"):
        processor.apply_chat_template([ask("x", tmp_path / "cat.png")])


def test_options_validate_themselves(tokenizer):
    pictures = Qwen2VLImageProcessorPil()
    for options, words in (
        ({"fixed_size": 100}, "multiple of 28"),
        ({"fixed_size": 0}, "multiple of 28"),
        ({"pad_color": (1, 2)}, "pad_color"),
        ({"pad_color": (1, 2, 300)}, "pad_color"),
        ({"system_prompt": 3}, "system_prompt"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
        ({"image_token": "<picture>"}, "<picture>"),
    ):
        with pytest.raises(ValueError, match=words):
            DiffusionVLQwenVLProcessor(pictures, tokenizer, **options)
    siglip = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    for options, words in (
        ({"image_aspect_ratio": "square"}, "anyres"),
        ({"image_grid_pinpoints": [[384, 400]]}, "image_grid_pinpoints"),
    ):
        with pytest.raises(ValueError, match=words):
            DiffusionVLQwenProcessor(siglip, tokenizer, **options)


# --- batches and calls ----------------------------------------------------------------------------------------


def test_a_batch_is_padded_on_the_right_and_holds_what_each_row_holds_alone(processor, tokenizer):
    rows = [[ask("Sure?")], [ask("What is this?", PICTURE, PICTURE)], [ask("A cat.", PICTURE)]]
    batch = processor.apply_chat_template(rows)
    alone = [processor.apply_chat_template(row) for row in rows]
    for number, single in enumerate(alone):
        length = single["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][number, :length], single["input_ids"][0])
        assert batch["attention_mask"][number].sum() == length
        assert (batch["input_ids"][number, length:] == tokenizer.pad_token_id).all()
    pixels = torch.cat([single["pixel_values"] for single in alone if "pixel_values" in single])
    assert torch.equal(batch["pixel_values"], pixels) and len(batch["image_grid_thw"]) == 3
    texts = processor.apply_chat_template(rows, tokenize=False)
    assert texts == [processor.apply_chat_template(row, tokenize=False) for row in rows]


def test_forms_of_the_result(processor):
    lists = processor.apply_chat_template([[ask()], [ask("Sure?")]], padding=False, return_tensors=None)["input_ids"]
    assert len(lists[0]) != len(lists[1])
    assert torch.equal(processor.apply_chat_template([ask()], return_dict=False), torch.tensor(lists[:1]))
    assert isinstance(
        processor.apply_chat_template([ask("x", PICTURE)], return_tensors="np")["pixel_values"], np.ndarray
    )
    assert processor.decode(lists[0]).endswith("assistant\n")
    assert processor.batch_decode(lists, skip_special_tokens=True)[1].endswith("Sure?\nassistant\n")


def test_a_rendered_prompt_gives_the_same_inputs(processor):
    turns = [ask("What is this?", PICTURE), answer("A cat."), ask("Sure?", PICTURE)]
    want = processor.apply_chat_template(turns)
    text = processor.apply_chat_template(turns, tokenize=False)
    stock_marks = text.replace("<image>", "<|image_pad|>")
    for prompt, images in (
        (text, [PICTURE, PICTURE]),
        ([text], [[PICTURE, PICTURE]]),
        (stock_marks, [PICTURE, PICTURE]),
    ):
        got = processor(text=prompt, images=images)
        assert set(got) == set(want) and all(torch.equal(got[name], want[name]) for name in want)
    two = processor(text=[text, "no picture"], images=[PICTURE, PICTURE])
    assert two["input_ids"].shape[0] == 2 and two["attention_mask"][1].sum() < two["attention_mask"][0].sum()
    assert processor(text="x<image>y", images=PICTURE)["image_grid_thw"].shape == (1, 3)
    for images in (None, [PICTURE], [PICTURE] * 3):
        with pytest.raises(ConversationError, match="must agree"):
            processor(text=text, images=images)
    for nothing in (None, "", [""]):
        with pytest.raises(ConversationError, match="prompt is empty"):
            processor(text=nothing)


# --- pictures -------------------------------------------------------------------------------------------------


def test_fixed_size_pictures_of_any_shape_give_the_same_grid(tiny):
    for size in ((96, 96), (300, 100), (1, 1), (7, 640)):
        inputs = tiny.apply_chat_template([ask("x", Image.new("RGB", size, "red"))])
        assert inputs["image_grid_thw"].tolist() == [[1, 12, 12]] and inputs["pixel_values"].shape == (144, 384)
        assert int((inputs["input_ids"] == IMAGE_ID).sum()) == 36
    wide = Image.new("RGB", (96, 48), "white")
    patches = tiny.process_pictures([wide])["pixel_values"].reshape(6, 6, 2, 2, -1)
    dark, bright = patches[0].mean(), patches[3].mean()
    assert dark < -1.5 < 1.5 < bright, "the band above the picture has the padding's colour"
    grid = tiny.picture_grids(tiny.apply_chat_template([ask("x", wide)]), [wide.size])[0]
    assert (grid.rows, grid.columns, grid.box) == (6, 6, (0, -24, 96, 72))


def test_one_pixel_is_enlarged(processor, tiles):
    dot = Image.new("RGB", (1, 1), "red")
    assert processor.apply_chat_template([ask("x", dot)])["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert tiles.apply_chat_template([ask("x", dot)])["pixel_values"].shape == (2, 3, 384, 384)


def test_grids_of_several_pictures(processor):
    tall = PICTURE.rotate(90, expand=True)
    inputs = processor.apply_chat_template([ask("x", PICTURE, tall)])
    grids = processor.picture_grids(inputs, [PICTURE.size, tall.size])
    assert [(grid.rows, grid.columns, grid.picture) for grid in grids] == [(3, 4, 0), (4, 3, 1)]
    assert sum(grid.rows * grid.columns for grid in grids) == int((inputs["input_ids"] == IMAGE_ID).sum())


def test_grids_of_tiles_cover_all_picture_tokens(tiles):
    wide = Image.new("RGB", (500, 300))
    inputs = tiles.apply_chat_template([ask("x", PICTURE, wide)])
    grids = tiles.picture_grids(inputs, [PICTURE.size, wide.size])
    assert [grid.picture for grid in grids] == [0, 0, 1, 1]
    assert sum(grid.rows * grid.columns for grid in grids) == int((inputs["input_ids"] == IMAGE_ID).sum())
    assert grids[2].box == (0, 0, 500, 300)
    left, top, right, bottom = grids[3].box
    newline = (right - left) / grids[3].columns
    assert np.allclose((left, top, right - newline, bottom), (0, 0, 500, 300), atol=10)


# --- saving and loading ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, tokenizer):
    """`folder(variant)`: a published checkpoint's files, less its weights."""

    def write(name):
        for file, contents in describe(VARIANTS[name])[1].items():
            (tmp_path / file).write_text(json.dumps(contents))
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"processor_class": "Qwen2_5_VLProcessor"},
        {"processor_class": "Some_Remote_Processor", "auto_map": {"AutoProcessor": "remote.Some_Remote_Processor"}},
    ],
)
def test_a_published_vl_folder_loads_whatever_processor_it_names(folder, names):
    path = folder("qwenvl_tied")
    (path / "preprocessor_config.json").write_text(json.dumps(VL_PREPROCESSOR | names))
    for options in ({}, {"trust_remote_code": True}):
        loaded = AutoProcessor.from_pretrained(path, **options)
        assert type(loaded) is DiffusionVLQwenVLProcessor
        size = loaded.image_processor.size
        assert (size.shortest_edge, size.longest_edge) == (147456, 262144), "config.json's bounds, not the file's"


def test_bounds_given_while_loading_come_first(folder):
    loaded = AutoProcessor.from_pretrained(folder("qwenvl_tied"), min_pixels=3136, max_pixels=50176, system_prompt=None)
    assert (loaded.image_processor.size.shortest_edge, loaded.image_processor.size.longest_edge) == (3136, 50176)
    assert loaded.system_prompt is None


def test_a_vl_folder_without_a_picture_file_loads_from_its_configuration(folder):
    path = folder("qwenvl_tied")
    (path / "preprocessor_config.json").unlink()
    loaded = AutoProcessor.from_pretrained(path)
    assert loaded.image_processor.patch_size == 14 and loaded.image_processor.size.shortest_edge == 147456


@pytest.mark.parametrize("variant", ["qwenvl_tied", "qwenlm_untied"])
def test_what_is_saved_loads_as_it_was(folder, variant, tmp_path):
    loaded = AutoProcessor.from_pretrained(folder(variant))
    loaded.system_prompt, loaded.max_prompt_tokens = None, 4000
    copy = tmp_path / "copy"
    loaded.save_pretrained(copy)
    shutil.copy(tmp_path / "config.json", copy)
    again = AutoProcessor.from_pretrained(copy)
    assert type(again) is type(loaded) and again.to_dict() == loaded.to_dict()
    assert (again.system_prompt, again.max_prompt_tokens) == (None, 4000)
    first, second = (one.apply_chat_template([ask("What is this?", PICTURE)]) for one in (loaded, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_bundled_models_options_are_saved(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    again = DiffusionVLQwenVLProcessor.from_pretrained(tmp_path)
    assert (again.pad_to_square, again.pad_color, again.fixed_size) == (True, [0, 0, 0], 96)
    assert again.to_dict() == tiny.to_dict()


def test_a_published_lm_folder_takes_its_tiles_from_its_configuration(folder):
    loaded = AutoProcessor.from_pretrained(folder("qwenlm_untied"))
    assert type(loaded) is DiffusionVLQwenProcessor
    assert loaded.tile == 384 and loaded.patch_size == 14 and len(loaded.image_grid_pinpoints) == 36


def test_other_models_processors_are_left_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    qwen_tokenizer().save_pretrained(tmp_path)
    assert not hasattr(AutoProcessor.from_pretrained(tmp_path), "image_processor"), "a tokenizer, as ever"
    assert not hasattr(AutoProcessor.from_pretrained(tmp_path, config=BertConfig()), "image_processor")


def test_a_tokenizer_without_the_template_is_refused(tokenizer):
    bare = qwen_tokenizer().__class__(vocab={"a": 0}, merges=[])
    with pytest.raises(ValueError, match="im_start"):
        DiffusionVLQwenVLProcessor(Qwen2VLImageProcessorPil(), bare)
