"""What can be asked about a TinyWorld picture, in which wordings, and the exact right answer.

A task maps a picture to (question, answer). The wording is drawn at random, then sometimes loses its capital or
its question mark, because visitors type like that. The answer never depends on the wording. Text that was read off
the picture stands in double quotes in an answer, so that the tokenizer can spell it character by character.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .pictures import COLOURS, PLACES, SHAPES, Chart, Other, Picture, Scene, Shape, Sudoku, Sum, Table, Text
from .wordings import ABSENT, OTHER_WORDINGS, QUESTIONS, UNKNOWN

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def name_of(shape: Shape, article: str = "A") -> str:
    """ "A large red circle" """
    return f"{article} {shape.size} {shape.colour} {shape.kind}"


def grid_text(cells: tuple[int, ...]) -> str:
    """Sixteen digits as four lines; a blank is a full stop."""
    return "\n".join("".join(str(d) if d else "." for d in cells[r : r + 4]) for r in range(0, 16, 4))


def markdown(header: tuple[str, str], rows) -> str:
    """A Markdown table of two columns."""
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"| {header[0]} | {header[1]} |\n|---|---|\n{lines}"


def _many(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _plural(count: int, noun: str) -> str:
    return f"{NUMBERS[count]} {noun if count == 1 else _many(noun)}"


def _places(shapes: list[Shape]) -> str:
    """ "Top left, center": where the shapes are, in reading order, with a capital."""
    names = ", ".join(PLACES[s.place] for s in shapes)
    return names[0].upper() + names[1:]


def chart_sentence(chart: Chart) -> str:
    """ "A bar chart called "Rain" with four bars." """
    titled = f' called "{chart.title}"' if chart.title else ""
    parts = {"bar": "bar", "line": "point", "pie": "slice"}[chart.kind]
    return f"A {chart.kind} chart{titled} with {_plural(len(chart.values), parts)}."


def caption(picture: Picture) -> str:
    """The full description of a picture of any kind."""
    if isinstance(picture, Scene):
        parts = [f"{name_of(s)} is at the {PLACES[s.place]}." for s in picture.shapes]
        return " ".join(parts) + f" That makes {_plural(len(picture.shapes), 'shape')}."
    if isinstance(picture, Text):
        return f'The text "{picture.text}" is written in {picture.colour}.'
    if isinstance(picture, Chart):
        return f"{chart_sentence(picture)} {_extreme(picture, max)} {_extreme(picture, min)}"
    if isinstance(picture, Table):
        return f"A table with {_plural(len(picture.rows), 'row')}:\n{markdown(picture.header, picture.rows)}"
    if isinstance(picture, Sudoku):
        return f"A sudoku with these digits:\n{grid_text(picture.givens)}"
    if isinstance(picture, Sum):
        return f"A sum: {picture.first} {picture.sign} {picture.second} = {picture.result}."
    return UNKNOWN


def _extreme(chart: Chart, pick: Callable) -> str:
    value = pick(chart.values)
    word = "largest" if pick is max else "smallest"
    return f'"{chart.labels[chart.values.index(value)]}" has the {word} value, {value}.'


# Scenes: lookups by content. Each returns the fields of the question and the answer.

def _description(rng: random.Random, shape: Shape) -> tuple[str | None, str | None]:
    """Colour and kind to look for, one of them or both taken from `shape`."""
    way = rng.choice(("kind", "colour", "both", "both"))
    if way == "kind":
        return (None, shape.kind)
    if way == "colour":
        return (shape.colour, None)
    return (shape.colour, shape.kind)


def _matches(scene: Scene, wanted: tuple[str | None, str | None]) -> list[Shape]:
    colour, kind = wanted
    return [s for s in scene.shapes if colour in (None, s.colour) and kind in (None, s.kind)]


def _words(wanted: tuple[str | None, str | None]) -> str:
    colour, kind = wanted
    return f"{colour} {kind or 'shape'}" if colour else kind


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _search(rng: random.Random, scene: Scene, present: float) -> tuple[str | None, str | None]:
    """What to look for: mostly something that is there, else anything."""
    if rng.random() < present:
        return _description(rng, rng.choice(scene.shapes))
    anything = Shape(rng.choice(SHAPES), rng.choice(tuple(COLOURS)), "small", 0)
    return _description(rng, anything)


def _count(rng: random.Random, scene: Scene) -> tuple[dict, str]:
    wanted = (None, None) if rng.random() < 0.15 else _search(rng, scene, 0.8)
    noun = "shape" if wanted == (None, None) else _words(wanted)
    found = _matches(scene, wanted)
    if not found:
        return {"things": _many(noun)}, f"There are no {_many(noun)}."
    return {"things": _many(noun)}, f"{_places(found)}. That makes {_plural(len(found), noun)}."


def _exists(rng: random.Random, scene: Scene) -> tuple[dict, str]:
    wanted = _search(rng, scene, 0.5)
    found, noun = _matches(scene, wanted), _a(_words(wanted))
    if not found:
        return {"thing": noun}, "No."
    where = _places(found)
    return {"thing": noun}, f"Yes: {where[0].lower()}{where[1:]}."


def _unique(rng: random.Random, scene: Scene, ways: tuple[str, ...]) -> tuple[Shape, str]:
    """A shape and words that fit no other shape; the full name is always one of the ways."""
    shape = rng.choice(scene.shapes)
    names = {"kind": (None, shape.kind), "colour": (shape.colour, None), "both": (shape.colour, shape.kind)}
    fitting = [names[w] for w in ways if len(_matches(scene, names[w])) == 1]
    if not fitting:
        return shape, ""
    return shape, _words(rng.choice(fitting))


def _some_unique(rng: random.Random, scene: Scene, ways: tuple[str, ...]) -> tuple[Shape, str] | None:
    for _ in range(6):
        shape, words = _unique(rng, scene, ways)
        if words:
            return shape, words
    return None


def _where(rng: random.Random, scene: Scene) -> tuple[dict, str] | None:
    found = _some_unique(rng, scene, ("kind", "colour", "both"))
    return found and ({"thing": found[1]}, f"At the {PLACES[found[0].place]}.")


def _colour(rng: random.Random, scene: Scene) -> tuple[dict, str] | None:
    found = _some_unique(rng, scene, ("kind",))
    if not found:
        return None
    shape, words = found
    return {"thing": words}, f"The {words} at the {PLACES[shape.place]} is {shape.colour}."


def _beside(rng: random.Random, scene: Scene) -> tuple[dict, str] | None:
    found = _some_unique(rng, scene, ("kind", "both"))
    if not found:
        return None
    shape, words = found
    options = {side: _neighbour(scene, shape, *step) for side, step in SIDES.items()}
    there = [side for side, other in options.items() if other]
    side = rng.choice(there if there and rng.random() < 0.75 else tuple(SIDES))
    other = options[side]
    what = f"{_a(other.size)} {other.colour} {other.kind}" if other else "nothing"
    answer = f"The {words} is at the {PLACES[shape.place]}. {side.capitalize()} it is {what}."
    return {"side": side, "thing": words}, answer


def _neighbour(scene: Scene, shape: Shape, dx: int, dy: int) -> Shape | None:
    """The nearest shape straight to one side."""
    at = {s.place: s for s in scene.shapes}
    x, y = shape.place % 3 + dx, shape.place // 3 + dy
    while 0 <= x < 3 and 0 <= y < 3:
        if y * 3 + x in at:
            return at[y * 3 + x]
        x, y = x + dx, y + dy
    return None


def _place(rng: random.Random, scene: Scene) -> tuple[dict, str]:
    place = rng.choice(scene.shapes).place if rng.random() < 0.75 else rng.randrange(9)
    at = [s for s in scene.shapes if s.place == place]
    return {"place": PLACES[place]}, f"{name_of(at[0])}." if at else "Nothing is there."


# Charts and tables

def _value(rng: random.Random, picture: Chart | Table) -> tuple[dict, str]:
    rows = picture.rows if isinstance(picture, Table) else tuple(zip(picture.labels, picture.values, strict=True))
    name, value = rng.choice(rows)
    return {"name": name}, f'"{name}" has the value {value}.'


def _title(_: random.Random, chart: Chart) -> tuple[dict, str]:
    return {}, f'The title is "{chart.title}".' if chart.title else "The chart has no title."


def _table(_: random.Random, picture: Chart | Table) -> tuple[dict, str]:
    if isinstance(picture, Table):
        return {}, markdown(picture.header, picture.rows)
    return {}, markdown(("Label", "Value"), zip(picture.labels, picture.values, strict=True))


def _read(_: random.Random, picture: Picture) -> tuple[dict, str]:
    return {}, f'"{picture.text}"' if isinstance(picture, Text) else caption(picture)


_ANSWERS: dict[str, tuple[tuple[type, ...], Callable]] = {  # task -> (kinds of pictures, question fields and answer)
    "place": ((Scene,), _place),
    "count": ((Scene,), _count),
    "exists": ((Scene,), _exists),
    "where": ((Scene,), _where),
    "colour": ((Scene,), _colour),
    "beside": ((Scene,), _beside),
    "read": ((Text, Chart, Table, Sudoku, Sum), _read),
    "reversed": ((Text,), lambda _, p: ({}, f'"{p.text[::-1]}"') if len(p.lines) == 1 else None),
    "table": ((Chart, Table), _table),
    "largest": ((Chart,), lambda _, p: ({}, _extreme(p, max))),
    "smallest": ((Chart,), lambda _, p: ({}, _extreme(p, min))),
    "value": ((Chart, Table), _value),
    "title": ((Chart,), _title),
    "sudoku": ((Sudoku,), lambda _, p: ({}, grid_text(p.solution))),
    "copy": ((Sudoku,), lambda _, p: ({}, grid_text(p.givens))),
    "sum": ((Sum,), lambda _, p: ({}, f"{p.first} {p.sign} {p.second} = {p.result}")),
    "caption": ((Scene, Text, Chart, Table, Sudoku, Sum, Other), lambda _, p: ({}, caption(p))),
}
_FIELDS = {  # what an unanswerable question asks about
    "place": lambda rng: {"place": rng.choice(PLACES)},
    "count": lambda rng: {"things": f"{rng.choice(tuple(COLOURS))} {_many(rng.choice(SHAPES))}"},
    "exists": lambda rng: {"thing": _a(rng.choice(SHAPES))},
    "where": lambda rng: {"thing": rng.choice(SHAPES)},
    "colour": lambda rng: {"thing": rng.choice(SHAPES)},
    "beside": lambda rng: {"side": rng.choice(tuple(SIDES)), "thing": rng.choice(SHAPES)},
    "value": lambda rng: {"name": rng.choice("ABCDEF")},
}


def tasks_of(picture: Picture) -> tuple[str, ...]:
    """The tasks that a picture of this kind is asked as its own."""
    tasks = tuple(task for task, (kinds, _) in _ANSWERS.items() if isinstance(picture, kinds))
    return tasks if isinstance(picture, Text) else tuple(task for task in tasks if task != "read")


def _phrase(rng: random.Random, task: str, fields: dict[str, str], freely: bool) -> str:
    text = rng.choice(QUESTIONS[task] + OTHER_WORDINGS[task] if freely else QUESTIONS[task]).format(**fields)
    if rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.2:
        text = text.rstrip(".?")
    return text


def ask(rng: random.Random, picture: Picture, task: str, freely: bool = False) -> tuple[str, str] | None:
    """A question of one task about a picture, and its answer.

    Asking for something that this kind of picture does not have (a text in a chart, say) gets the sentence that
    says so; anything about a picture of nothing known, that it can't be read.

    Args:
        rng: random stream.
        picture: what is asked about.
        task: a key of `wordings.QUESTIONS`.
        freely: in other wordings too, as people ask about their own pictures.

    Returns:
        question and answer; None when this one picture leaves nothing to ask (no shape that is alone of its kind).

    Raises:
        KeyError: if the task is unknown.
    """
    kinds, answer = _ANSWERS[task]
    if isinstance(picture, kinds):
        found = answer(rng, picture)
        return None if found is None else (_phrase(rng, task, found[0], freely), found[1])
    fields = _FIELDS[task](rng) if task in _FIELDS else {}
    return _phrase(rng, task, fields, freely), UNKNOWN if isinstance(picture, Other) else ABSENT[task]
