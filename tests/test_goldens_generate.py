"""Decoding against what the published code returned: ids, forward counts, and the steps between."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import dvl_core  # noqa: F401
from dvl_core import DecodingConfig
from dvl_core.decoding.masks import block_causal_mask

EVERY = {"tied": 12, "untied": 12, "eos": 3, "maskgen": 3, "alias": 3, "odd": 2}


@pytest.fixture(scope="module")
def model(checkpoint):
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded.clear()  # one model of 152k ids at a time
            loaded[name] = AutoModelForImageTextToText.from_pretrained(checkpoint(name)).eval()
        return loaded[name]

    return load


def settings(case):
    kind = case["remasking"]
    strategy = {"strategy": "low_confidence_static"}
    if kind != "static":
        strategy = {"strategy": "low_confidence_dynamic", "threshold": float(kind.removeprefix("dyn"))}
    return DecodingConfig(
        block_size=case["block_size"],
        steps=case["steps"],
        max_new_tokens=case["gen_length"],
        reference_compatible=True,
        **strategy,
    )


def prompt_of(case, data):
    prompt = case["prompt"]
    if isinstance(prompt, int):
        prompt = data["prompts"][str(prompt)]
    return prompt if isinstance(prompt[0], list) else [prompt]


def check(model, data, cases):
    """Every case that is not a near-tie gives the recorded ids in the recorded number of forward passes."""
    wrong = []
    for number, case in enumerate(cases):
        ids = torch.tensor(prompt_of(case, data))
        output = model.generate(ids, config=settings(case))
        answer = output.sequences[:, ids.shape[1] :].tolist()
        expected = case["output"] if isinstance(case["output"][0], list) else [case["output"]]
        if (answer != expected or output.forwards != case["forwards"]) and not case.get("tight"):
            wrong.append((number, case.get("note"), output.forwards, case["forwards"]))
    assert not wrong
    assert len(cases) >= 10


@pytest.mark.parametrize("name", ["tied", "untied", "eos", "maskgen", "alias"])
def test_recorded_answers(model, golden, name):
    data = golden(f"generate_qwenvl_{name}.json")
    check(model(f"qwenvl_{name}"), data, data["cases"][:: EVERY[name]])


def test_recorded_odd_settings(model, golden):
    data = golden("generate_odd_qwenvl_untied.json")
    check(model("qwenvl_untied"), data, data["cases"][:: EVERY["odd"]])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["tied", "untied", "eos", "maskgen", "alias", "odd"])
def test_every_recorded_answer(model, golden, file):
    data = golden("generate_odd_qwenvl_untied.json" if file == "odd" else f"generate_qwenvl_{file}.json")
    check(model("qwenvl_untied" if file == "odd" else f"qwenvl_{file}"), data, data["cases"])


def test_recorded_answers_of_the_lm_family(model, golden):
    data = golden("generate_qwenlm_untied.json")
    check(model("qwenlm_untied"), data, data["cases"][::4] + data["odd"])


def test_recorded_steps(model, golden):
    """Masks, proposals, confidences and reveals of whole runs, step by step."""
    compared = 0
    for case in golden("trace.json")["cases"]:
        if case["fixture"] != "qwenvl_untied":
            continue
        prompt = torch.tensor([case["prompt"]])
        first = prompt.shape[1] // case["block_size"]
        steps = model("qwenvl_untied").denoise({"input_ids": prompt}, settings(case))
        for step, recorded in zip(steps, case["trace"], strict=True):
            assert (first + step.block, step.step) == (recorded["block"], recorded["step"])
            cells = step.masked[0].nonzero().flatten()
            assert cells.tolist() == recorded["masked"]
            assert step.proposals[0, cells].tolist() == recorded["x0"]
            np.testing.assert_allclose(step.confidences[0, cells].numpy(), recorded["x0_p"], atol=2e-5)
            assert step.revealed[0].nonzero().flatten().tolist() == recorded["transferred"]
            answer = max(0, -step.spans[0][0])  # the published code keeps no ids for the prompt's cells
            assert step.tokens[0, answer:].tolist() == recorded["block_ids_after"][answer:]
            compared += 1
    assert compared >= 10


def test_logits_of_the_first_denoising_pass(model, golden):
    recorded = golden("first_logits_qwenvl_untied.npz")
    ids = torch.tensor([recorded["prompt"].tolist() + [151671] * 3])
    model = model("qwenvl_untied")
    with torch.no_grad():
        hidden = model.run_decoder(
            model.embed_inputs(ids), block_causal_mask(16, 8)[None, None], torch.arange(16)[None]
        )
        logits = model.lm_head(hidden[0, 8:])
        whole = model(input_ids=ids).logits[0, 8:]
    torch.testing.assert_close(whole, logits)
    np.testing.assert_allclose(logits.double().logsumexp(-1).numpy(), recorded["logsumexp"], rtol=1e-5)
    np.testing.assert_allclose(logits[:, ::1187].numpy(), recorded["every_1187th"], atol=2e-4)
    assert logits.topk(16, dim=-1).indices[:, 0].tolist() == recorded["top_ids"][:, 0].tolist()
