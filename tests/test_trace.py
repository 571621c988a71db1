"""The trace: what is recorded, what survives the file, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import prompts, tiny_model
from traces import made_up_trace

from dvl_core import DecodingConfig, Observe
from dvl_core.recorder import TraceRecorder, token_bytes
from dvl_core.trace import DenoisingTrace, TraceError

ROOT = Path(__file__).parents[1]


class Tokenizer:
    """Ids as byte-level pieces; some are halves of a character."""

    all_special_ids = [256, 257, 258, 259]
    tokenizer = property(lambda self: self)

    def convert_ids_to_tokens(self, token):
        return {257: "<|im_end|>"}.get(token, chr(0x21 + token % 90))


def test_a_recorded_run_survives_the_file(tmp_path):
    model = tiny_model()
    config = DecodingConfig(block_size=8, steps=8, max_new_tokens=128)
    ids = torch.tensor([prompts(1)[0]])
    messages = [{"role": "user", "content": "What?"}]
    recorder = TraceRecorder(model, Tokenizer(), config, messages, prompt_tokens=ids.shape[1])
    answer = None
    for step in model.denoise({"input_ids": ids}, config, Observe(candidates=5, entropy=True)):
        recorder.add(step)
    answer = model.generate(ids, config=config)
    trace = recorder.finish()
    assert trace.answer_ids() == answer.answers[0]
    assert trace.finish_reason == answer.finish_reasons[0]
    assert (trace.forwards, len(trace.steps)) == (answer.forwards, answer.denoising_steps)
    milliseconds = trace.prefill_milliseconds + sum(step.milliseconds for step in trace.steps)
    assert trace.seconds == pytest.approx(milliseconds / 1e3)
    file = tmp_path / "trace.json"
    trace.save(file)
    again = DenoisingTrace.load(file)
    assert again.to_json() == trace.to_json()
    assert again == trace


def test_steps_that_were_guessed_are_no_passes():
    """Looking ahead, the same answer has as many steps and fewer passes; tokens per forward count passes."""
    model, ids, seen = tiny_model(), torch.tensor([prompts(1)[0]]), {}
    for ahead in (0, 4):
        config = DecodingConfig(block_size=8, steps=8, max_new_tokens=64, lookahead=ahead)
        recorder = TraceRecorder(model, Tokenizer(), config, [], prompt_tokens=ids.shape[1])
        for step in model.denoise({"input_ids": ids}, config):
            recorder.add(step)
        trace, output = recorder.finish(), model.generate(ids, config=config)
        assert trace.tokens_per_forward == output.tokens_per_forward == len(trace.answer_ids()) / trace.passes
        seen[ahead] = trace
    plain, guessed = seen.values()
    assert plain.answer_ids() == guessed.answer_ids() and len(plain.steps) == len(guessed.steps) == plain.passes
    assert guessed.passes == plain.passes - (plain.forwards - guessed.forwards) < plain.passes


def test_a_long_answer_with_candidates_stays_small(tmp_path):
    model = tiny_model()
    model.lm_head.weight.data[257] = 0  # no end
    config = DecodingConfig(block_size=8, steps=8, max_new_tokens=128)
    recorder = TraceRecorder(model, Tokenizer(), config, [{"role": "user", "content": "What?"}])
    for step in model.denoise({"input_ids": torch.tensor([[1, 2, 3]])}, config, Observe(candidates=5)):
        recorder.add(step)
    file = tmp_path / "trace.json"
    recorder.finish().save(file)
    assert len(recorder.trace.answer_ids()) == 128
    assert file.stat().st_size < 400_000


def test_characters_spread_over_tokens_are_joined():
    trace = made_up_trace()
    assert "猫" in trace.text and "😀" in trace.text and "\ufffd" not in trace.text
    assert "\ufffd" not in DenoisingTrace.from_json(json.loads(json.dumps(trace.to_json()))).text


def test_byte_level_tokens_become_bytes():
    table = Tokenizer()
    table.convert_ids_to_tokens = lambda token: ["Ġred", "çĮ", "«", "<|im_end|>", "Ċ"][token - 255]
    table.all_special_ids = [258]
    assert [token_bytes(table, i) for i in range(255, 260)] == [b" red", b"\xe7\x8c", b"\xab", b"<|im_end|>", b"\n"]


def test_the_canvas_at_any_step():
    trace = made_up_trace()
    assert all(token is None for token in trace.canvas(0))
    for number in range(len(trace.steps)):
        before, after = trace.canvas(number), trace.canvas(number + 1)
        changed = {p for p, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
        assert changed == set(trace.steps[number].revealed)


def test_what_was_changed_after_the_last_step_is_part_of_the_answer():
    trace = made_up_trace()
    last, token = len(trace.steps), trace.steps[0].proposals[0]
    begun = trace.branch("first", last, {2: token, 3: None}, trace.settings)
    assert begun.canvas()[2:4] == [token, None] and begun.denoised == trace.denoised - 2
    assert begun.canvas(last - 1) == trace.canvas(last - 1)
    again = begun.branch("second", last, {3: token}, trace.settings)  # the earlier change stays, the later one counts
    assert again.canvas()[2:4] == [token, token]
    assert begun.branch("second", last - 1, {}, trace.settings).canvas() == trace.canvas(last - 1)


def test_what_a_template_gave_was_not_denoised():
    trace = made_up_trace()
    position, token = trace.steps[0].masked[0], trace.steps[0].proposals[0]
    assert trace.tokens_per_forward == trace.denoised / trace.passes
    assert trace.denoised == len(trace.answer_ids())
    trace.given = [[position, token]]
    for step in trace.steps:
        if position in step.masked:
            at = step.masked.index(position)
            for values in (step.masked, step.proposals, step.confidences):
                del values[at]
            step.revealed = [p for p in step.revealed if p != position]
    assert trace.denoised == len(trace.answer_ids()) - 1


IMAGE = {"width": 2, "height": 2, "grid": [1, 1], "box": [0, 0, 2, 2]}


def broken(**changes):
    data = json.loads(json.dumps(made_up_trace().to_json()))
    for path, value in changes.items():
        *where, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        target = data
        for key in where:
            target = target[key]
        if value is KeyError:
            del target[last]
        else:
            target[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "not a trace"),
        ({"format": "other"}, "not a trace"),
        (broken(version=99), "version 99"),
        (broken(model=3), "model: expected dict"),
        (broken(length=0), "length"),
        (broken(length="64"), "length: expected int"),
        (broken(finish_reason="bored"), "finish_reason"),
        (broken(steps={}), "steps: expected a list"),
        (broken(steps__0__masked=[999]), r"steps\[0\].masked"),
        (broken(steps__0__masked=[-1]), r"steps\[0\].masked"),
        (broken(steps__1__revealed=[63]), r"steps\[1\].revealed"),
        (broken(steps__0__confidences=[1.0]), r"steps\[0\].confidences"),
        (broken(steps__0__block=KeyError), r"steps\[0\].*block"),
        (broken(steps__0__surprise=1), r"steps\[0\].*surprise"),
        (broken(vocabulary={}), "vocabulary: no entry for id"),
        (broken(vocabulary={"a": 1}), "vocabulary"),
        (broken(given=[[1]]), r"given\[0\]"),
        (broken(given=[[99, 1]]), r"given\[0\]"),
        (broken(images=[{"width": 1}]), r"images\[0\]"),
        (broken(prefill_milliseconds=None), "prefill_milliseconds: expected a number"),
        (broken(model__eos_token_ids=None), "eos_token_ids: expected a list"),
        (broken(prompt__messages=3), "prompt.messages: expected a list"),
        (broken(steps__0__milliseconds="1"), r"steps\[0\].milliseconds"),
        (broken(steps__0__forwards=None), r"steps\[0\].forwards"),
        (broken(steps__0__confidences=None), r"steps\[0\].confidences"),
        (broken(steps__0__confidences__0=float("nan")), r"steps\[0\].confidences"),
        (broken(steps__0__milliseconds=10**400), r"steps\[0\].milliseconds: .* got 1000"),
        (broken(steps__0__span=[9, 3]), r"steps\[0\].span"),
        (broken(steps__0__candidates=[5] * 8), r"steps\[0\].candidates"),
        (broken(steps__0__entropies=["x"] * 8), r"steps\[0\].entropies"),
        (broken(steps__0__attention={"3": "boo"}), r"steps\[0\].attention\[3\]"),
        (broken(prompt__num_tokens="abc"), "prompt.num_tokens"),
        (broken(images=[IMAGE | {"grid": None}]), r"images\[0\].grid"),
        (broken(images=[IMAGE | {"box": [0, 0, 1]}]), r"images\[0\].box"),
        (broken(images=[IMAGE | {"data": 5}]), r"images\[0\]"),
    ],
)
def test_what_is_not_a_trace_is_refused_by_field(data, says):
    with pytest.raises(TraceError, match=says):
        DenoisingTrace.from_json(data)


def test_a_file_that_is_not_json_is_refused(tmp_path):
    file = tmp_path / "trace.json"
    for content in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000):
        file.write_bytes(content)
        with pytest.raises(TraceError, match="trace.json is not a trace"):
            DenoisingTrace.load(file)


def test_what_can_not_be_written_leaves_the_file_as_it_was(tmp_path):
    file, trace = tmp_path / "trace.json", made_up_trace()
    trace.save(file)
    before = file.read_bytes()
    trace.model["name"] = "\udcff"
    with pytest.raises(UnicodeEncodeError):
        trace.save(file)
    assert file.read_bytes() == before


def test_a_run_without_passes_has_no_speed():
    trace = made_up_trace()
    for step in trace.steps:
        step.forwards = 0
    assert trace.passes == 0 and trace.tokens_per_forward == 0


def test_a_trace_is_read_without_torch(tmp_path):
    file = tmp_path / "trace.json"
    made_up_trace().save(file)
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, gradio=None)\n"
        "from dvl_core.trace import DenoisingTrace\n"
        f"print(len(DenoisingTrace.load({str(file)!r}).answer_ids()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(made_up_trace().answer_ids())
