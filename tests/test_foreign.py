"""Pictures made outside TinyWorld: the set is whole and fair, and the scorer tells right answers from wrong ones."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dvl_core import DecodingConfig, load_model
from dvl_core.evaluate import main
from dvl_core.evaluation import PictureScore, Question, evaluate_pictures, load_questions, share_right
from dvl_core.evaluation.pictures import FAMILIES

FOREIGN = Path(__file__).parent / "data" / "foreign"
SHAPE = r"(small|large) (red|green|blue|yellow|purple|orange|black|brown|pink|gray) \w+"
PLACE = r"(top left|top right|top|left|center|right|bottom left|bottom right|bottom)"
COUNT = r"That makes (one|two|three|four|five|six|seven|eight) [a-z ]+\."
FORMS = (  # how TinyWorld's answers are phrased
    rf"(?i:{PLACE})(, {PLACE})*\. {COUNT}", r"There are no [a-z ]+\.", rf"Yes: {PLACE}(, {PLACE})*\.", r"No\.",
    rf"At the {PLACE}\.", rf"The [a-z ]+ at the {PLACE} is \w+\.", rf"A {SHAPE}\.",
    rf"(A {SHAPE} is at the {PLACE}\. )+{COUNT}",
    rf"The [a-z ]+ is at the {PLACE}\. (Left of|Right of|Above|Below) it is (a {SHAPE}|nothing)\.",
    r'"[^"]+"', r'"\w+" has the (largest |smallest )?value,? \d+\.', r'The title is "\w+"\.',
    r"\| \w+ \| \w+ \|\n\|---\|---\|(\n\| \w+ \| \d+ \|)+", r"[1-4.]{4}(\n[1-4.]{4}){3}", r"\d+ [+-] \d+ = \d+",
    r"I can't read this picture\. I know shapes, texts, charts, tables, sums and sudokus\.",
    r"There are no shapes in this picture\.",
)


@pytest.fixture(scope="module")
def questions():
    return load_questions(FOREIGN)


def test_the_set_is_whole(questions):
    files = {q.file for q in questions}
    assert files == {path.name for path in FOREIGN.glob("*.png")} and len(files) >= 44
    assert sum((FOREIGN / file).stat().st_size for file in files) < 1_000_000
    pictures = Counter(dict(zip((q.file for q in questions), (q.kind for q in questions), strict=True)).values())
    for kind, least in {"chart": 10, "shapes": 12, "page": 10, "sketch": 6, "puzzle": 3, "photo": 3}.items():
        assert pictures[kind] >= least
    for file in files:
        assert (FOREIGN / file).stat().st_size <= 30_000, file
        with Image.open(FOREIGN / file) as picture:
            assert 120 <= max(picture.size) <= 800, file


def test_questions_are_asked_once_and_few_per_picture(questions):
    assert len({(q.file, q.question) for q in questions}) == len(questions)
    assert set(Counter(q.file for q in questions).values()) <= {1, 2}


def test_answers_are_phrased_as_in_tinyworld(questions):
    for q in questions:
        assert any(re.fullmatch(form, q.answer) for form in FORMS), (q.file, q.answer)


def wrong(q: Question) -> set[str]:
    """Answers that say something else: every word that matters replaced, one at a time."""
    found = set()
    for match in re.finditer(r"\w+", q.answer):
        word, matters = match[0].lower(), {w for fact in q.must for w in re.findall(r"\w+", fact.lower())}
        if q.must and word not in matters:
            continue
        others = {other for family in FAMILIES if word in family for other in family if other.rstrip("s") != word}
        others = (others or {f"{word}x"}) - {"large", "small", word}
        found |= {q.answer[: match.start()] + other + q.answer[match.end() :] for other in others}
    return found - {text for text in q.accept}


def test_right_answers_count_and_wrong_ones_do_not(questions):
    for q in questions:
        assert q.counts(q.answer) and q.counts(f"  {q.answer.upper()} ") and all(map(q.counts, q.accept))
        for given in ("", "I don't know.", "yes no", *wrong(q)):
            assert not q.counts(given), (q.question, q.answer, given)
        for other in questions:
            if other.file == q.file and other.answer != q.answer and not q.must:
                assert not q.counts(other.answer), (q.question, q.answer, other.answer)


def test_listing_everything_is_wrong(questions):
    everything = " ".join(sorted({word for family in FAMILIES for word in family}))
    for q in questions:
        assert not q.counts(f"{q.answer} {everything}"), q.question


@pytest.mark.parametrize("given", ['"Exit"', "exit", "EXIT.", " EXIT\n", '"EXIT".'])
def test_case_quotes_and_the_full_stop_do_not_matter(given):
    assert Question("a.png", "page", "What does it say?", '"EXIT"').counts(given)


@pytest.mark.parametrize("given", ["EXITS", "EX IT", "EXIT EXIT", "The EXIT", ""])
def test_other_texts_are_wrong(given):
    assert not Question("a.png", "page", "What does it say?", '"EXIT"').counts(given)


COUNTING = Question("a.png", "shapes", "How many red circles?", "Top left, center. That makes two red circles.",
                    must=("two red circles",))


@pytest.mark.parametrize("given", ["There are two red circles.", "Left, center. That makes two red circles."])
def test_stating_the_facts_is_enough(given):
    assert COUNTING.counts(given)


@pytest.mark.parametrize("given", [
    "That makes three red circles.", "Top left, center. That makes two circles.", "two red, circles two blue",
    "There are two red circles and one blue.", "There are two red circles and a star.", "twotwo red circles",
    "No. That makes two red circles.",
])
def test_facts_that_are_missing_or_contradicted_are_wrong(given):
    assert not COUNTING.counts(given)


def test_must_not_forbids_further_words():
    question = Question("a.png", "chart", "Which bar?", "The tallest is B, 7.", must=("B", "7"), must_not=("A", "C"))
    assert question.counts("B has 7") and question.counts("7: bar B")
    for given in ("A and B have 7", "B has 17", "B has 7 or 8", "Bob has 7", "B"):
        assert not question.counts(given)


@pytest.mark.parametrize(("entry", "complaint"), [
    ("text", "must be an object"),
    ({"question": " "}, "question=' '"),
    ({"kind": None}, "kind=None"),
    ({"accept": "No."}, "accept='No.'"),
    ({"must": ["..."]}, "must="),
    ({"must": ["green"]}, "does not meet its own must"),
    ({"must_not": ["green"]}, "must_not has a meaning only beside must"),
    ({"answers": "x"}, "unknown field 'answers'"),
    ({"file": "../a.png"}, "without a path"),
    ({"file": "gone.png"}, "gone.png is not a picture"),
    ({"file": "broken.png"}, "broken.png is not a picture"),
])
def test_broken_entries_are_named(tmp_path, entry, complaint):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    good = {"file": "a.png", "kind": "shapes", "question": "What colour?", "answer": "It is red."}
    entries = [good, good | entry if isinstance(entry, dict) else entry]
    (tmp_path / "questions.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"entry 1 \(file") as error:
        load_questions(tmp_path)
    assert complaint in str(error.value)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", b"\xff\xfe["])
def test_a_folder_without_questions_is_refused(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "questions.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["--model", "never/loaded", "--pictures", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.fixture(scope="module")
def handful(tmp_path_factory, questions):
    """One small picture of three kinds, in a folder of its own."""
    folder = tmp_path_factory.mktemp("handful")
    names = ("shapes_outlines.png", "page_button.png", "photo_seafloor.png")
    for name in names:
        shutil.copy(FOREIGN / name, folder)
    entries = [e for e in json.loads((FOREIGN / "questions.json").read_text()) if e["file"] in names]
    (folder / "questions.json").write_text(json.dumps(entries))
    return folder


def test_command_line(handful, checkpoint_with_tokenizer, capsys):
    command = ["--model", str(checkpoint_with_tokenizer("qwenvl_tied")), "--pictures", str(handful), "--steps", "2",
               "--max-new-tokens", "8", "--batch", "2"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["questions"] == 4 and report["share_right"] == 0
    assert list(report["kinds"]) == ["shapes", "page", "photo"]
    assert [len(kind["mistakes"]) for kind in report["kinds"].values()] == [2, 1, 1]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "0/2" in printed and "0/4" in printed and "page_button.png: 'What text do you see on the button?'" in printed


def test_right_answers_are_counted(handful, monkeypatch):
    answers = iter([["At the right.", "yes"], ["SIGN UP"], ["A large red star."]])
    asked = []

    def ask_model(model, processor, items, config):
        asked.extend((image.size, question) for image, question in items)
        return [(text, 3, 6) for text in next(answers)]

    monkeypatch.setattr("dvl_core.evaluation.pictures.ask_model", ask_model)
    scores = list(evaluate_pictures(None, None, handful, DecodingConfig()))
    assert [(s.kind, s.questions, s.right) for s in scores] == [("shapes", 2, 1), ("page", 1, 1), ("photo", 1, 0)]
    assert asked[0] == ((200, 150), "where is the triangle")
    assert scores[0].mistakes == (("shapes_outlines.png", "Is there a red circle?", "No.", "yes"),)
    assert scores[0].steps == 6 and scores[0].tokens_per_step == 0.5 and share_right(scores) == 0.5
    with pytest.raises(ValueError, match="batch=0"):
        next(evaluate_pictures(None, None, handful, batch=0))


def test_the_share_is_per_question():
    assert share_right([PictureScore("a", 9, 9, 1, 1, 1, ()), PictureScore("b", 1, 0, 1, 1, 1, ())]) == 0.9


def test_tasks_and_pictures_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["--model", "m", "--pictures", "p", "--tasks", "count"])
    assert "not allowed with" in capsys.readouterr().err


def test_the_bundled_model_answers_what_others_drew():
    model, processor = load_model(FOREIGN.parents[2] / "assets" / "tinyvl", device="cpu")
    quick = DecodingConfig(strategy="low_confidence_dynamic", threshold=0.9, max_new_tokens=96)
    scores = list(evaluate_pictures(model, processor, FOREIGN, quick))
    shapes = next(score for score in scores if score.kind == "shapes")
    assert shapes.right / shapes.questions >= 0.75  # its card says 22 of 23
    assert share_right(scores) >= 0.7  # its card says 60 of 76
