"""The model that lmms-eval is given answers its requests as the project's own benchmark does."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dvl_core.evaluation import lmms
from dvl_core.evaluation.asking import ask_model
from dvl_core.tinyworld import draw, task_sample

MODEL = str(Path(__file__).parents[1] / "assets" / "tinyvl")
GREEDY = {"max_new_tokens": 64, "temperature": 0, "top_p": 0.5, "do_sample": False, "num_beams": 1}


@pytest.fixture(scope="module")
def adapter():
    return lmms.DiffusionVL(MODEL, device="cpu", batch_size=2, strategy="low_confidence_dynamic", threshold=0.9)


@pytest.fixture(scope="module")
def documents():
    """(picture, question) of three tasks."""
    return [(draw(picture), question) for picture, question, _ in (
        task_sample(task, "test", 1_000_000) for task in ("table", "where", "copy"))]


def as_messages(document):
    image, question = document
    return [{"role": "user", "content": [{"type": "image", "url": image}, {"type": "text", "text": question}]}]


def requests(adapter, documents, settings, talk=as_messages):
    adapter.task_dict["quiz"] = {"test": documents}
    return [SimpleNamespace(args=("", talk, chosen, number, "quiz", "test")) for number, chosen in enumerate(settings)]


def test_answers_come_in_the_order_of_the_requests(adapter, documents):
    """Also where other settings put them into other batches; with the tokens that were written."""
    given = adapter.generate_until(requests(adapter, documents, [GREEDY, GREEDY | {"max_new_tokens": 96}, GREEDY]))
    config = adapter.model.default_config(max_new_tokens=64, strategy="low_confidence_dynamic", threshold=0.9)
    wanted = ask_model(adapter.model, adapter.processor, documents, config)
    assert given == [(text, {"output_tokens": tokens}) for text, tokens, _ in wanted]
    assert len({text for text, _ in given}) == 3


@pytest.mark.parametrize(("until", "said"), [("\n", "| "), (["---", "\n"], "| "), ([], None), (None, None), ("", None)])
def test_an_answer_ends_before_a_tasks_stop_string(adapter, documents, until, said):
    whole, cut = (adapter.generate_until(requests(adapter, documents[:1], [settings]))[0][0]
                  for settings in (GREEDY, GREEDY | {"until": until}))
    assert cut == whole if said is None else (cut == whole.split("\n")[0] and cut.startswith(said))


def test_ones_own_settings_count_more_than_a_tasks(adapter):
    asked = adapter.config({"max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": None, "threshold": 0.1})
    assert (asked.max_new_tokens, asked.temperature, asked.top_p, asked.threshold) == (7, 0.5, 0.9, 0.9)
    assert adapter.config(GREEDY).temperature == 0 and adapter.config(GREEDY).top_p == 1.0
    assert adapter.config({"temperature": 0.5, "do_sample": False}).temperature == 0
    own = lmms.DiffusionVL(MODEL, device="cpu", max_new_tokens=9, temperature=0.2, block_size=4)
    config = own.config({"max_new_tokens": 7, "temperature": 0.5})
    assert (config.max_new_tokens, config.temperature, config.block_size, config.steps) == (9, 0.2, 4, 4)


def test_what_cannot_be_asked_costs_its_own_answer_alone(adapter, documents, caplog):
    def talk(document):
        return [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}] if document is None else as_messages(
            document)

    given = adapter.generate_until(requests(adapter, [documents[0], None], [GREEDY, GREEDY], talk))
    assert given[0] == adapter.generate_until(requests(adapter, documents[:1], [GREEDY]))[0] and given[0][0]
    assert given[1] == ("", {"output_tokens": 0})
    assert "quiz, document 1: A part of message 1 must be" in caplog.text


@pytest.mark.parametrize(("settings", "said"), [
    ({"thresold": 0.9}, "model_args: thresold must be pretrained, device, dtype or one of block_size"),
    ({"threshold": 2}, "threshold must be a number from 0 to 1"), ({"batch_size": "auto"}, "batch_size must be"),
    ({"batch_size": 0}, "batch_size must be a whole number"), ({"device": "abacus"}, "device must be auto"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(settings, said):
    with pytest.raises(ValueError, match=said):
        lmms.DiffusionVL(MODEL, **settings)


def test_what_diffusion_does_not_give_is_said(adapter):
    with pytest.raises(NotImplementedError, match="no likelihood of a text: choose tasks"):
        adapter.loglikelihood([])
    with pytest.raises(NotImplementedError, match="several rounds are not supported"):
        adapter.generate_until_multi_round([])


def test_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(lmms, "lmms", object)
    assert lmms.main() == 2
    assert "pip install lmms-eval" in capsys.readouterr().err
