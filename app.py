"""The page: layout and wiring.

    python app.py                          serves the bundled model on http://127.0.0.1:7860
    python app.py --model OWNER/NAME       serves a published checkpoint; a GPU is used where there is one

What is computed comes from `dvl_core.engine`, what is drawn from `visualize`. Every option is also an environment
variable, named after each option below, which is how a Space is set up.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

try:
    import spaces  # before torch, or a Space can't lend its GPU
except ImportError:
    spaces = None

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dvl_core.ahead import ahead
from dvl_core.decoding.strategies import STRATEGIES, STRATEGY_PARAMETERS
from dvl_core.desk import RECORDS, Desk
from dvl_core.engine import Engine, EngineError, Event, Loading, Started, Stepped, Waiting
from dvl_core.explore import event_json, sweep
from dvl_core.lessons import lesson_data
from dvl_core.models.loading import Outline, outline_model, outline_parent
from dvl_core.race import Lane, Result, Running, run_race
from dvl_core.serving import check_address, limits_of, parse_options
from dvl_core.sessions import Run, Sessions, as_message
from dvl_core.trace import TraceError, encode_vocabulary
from dvl_core.turns import FairLock
from visualize import explore, lessons, links, player, race, strings
from visualize import page as look
from visualize.downloads import download
from visualize.explore import protocol as explore_protocol
from visualize.export import load
from visualize.gallery import Recording, read_gallery, read_measured
from visualize.language import TOGGLE, LanguageFirst
from visualize.lessons.protocol import lesson_message
from visualize.player import protocol
from visualize.race import protocol as race_protocol
from visualize.theme import MONO, SANS

HERE = Path(__file__).parent
BUNDLED = HERE / "assets" / "tinyvl"
PARENT = HERE / "assets" / "tinyvl-ar"  # of the bundled model
EXAMPLES = HERE / "assets" / "examples"  # for every model that has none of its own

# What a sentence about a setting calls it on the page.
LABELS = {
    "block_size": "Block size", "steps": "Steps per block", "max_new_tokens": "Answer length", "strategy": "Strategy",
    "threshold": "Threshold", "entropy_bound": "Entropy bound", "factor": "Factor", "temperature": "Temperature",
    "seed": "Seed", "lookahead": "Look ahead",
}  # fmt: skip
LARGEST = 2**53 - 1  # whole number that a browser can hold
FRAME = 1 / 30  # seconds between two messages to a page; quicker steps go together
say = gr.I18n(**strings.by_language("page", "race", "strategy"))


def labelled(error: Exception) -> str:
    """The sentence of an error, in which a setting has the name that the page gives it."""
    name, _, rest = str(error).partition(" ")
    return f"{LABELS[name]} {rest}" if name in LABELS else str(error)


# -- what a run changes on the page --


@dataclass
class Show:
    """A run on a page, from its first step on.

    Attributes:
        run: which.
        batches: events that have still to come, in lists.
        kept, typed: as of `Stage.begin`.
        error: what ended it, if anything did.
        taken, over: whether somebody shows its steps, and whether all have been shown.
    """

    run: Run
    batches: Generator[list[tuple[Run, Event]]]
    kept: list[dict]
    typed: dict | None
    error: EngineError | None = None
    taken: bool = False
    over: bool = False


class Stage:
    """Turns what happens in a run into changes of the page: dicts by the name of a `View` field.

    A run has three acts. Only the player changes in the second: whatever is an output of an event costs gradio
    milliseconds with every step, and a step may take less. Whoever asks again quickly has several shows at once; the
    later acts of an earlier question may come to a later one's show, and the other way round, but every show gets both.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._shows: dict[str, list[Show]] = {}  # by visitor, in the order they began
        self._lock = threading.Lock()

    def begin(
        self, visitor: str, events: Generator[tuple[Run, Event]], kept: list[dict], rest: float,
        typed: dict | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Act one, up to the first step: what follows has to wait for another event. It rests `rest` seconds after
        every step.

        `kept` is the conversation that stays when this can't be done, `typed` the question that is then typed again.
        """
        run = None

        def rested(come: tuple[Run, Event]) -> bool:
            if isinstance(come[1], Stepped):
                come[0].stop.wait(rest)
            return come[0].stop.is_set()

        batches, handed_on = ahead(events, rested, FRAME), False
        try:
            for batch in batches:
                run, come = batch[-1][0], [event for _, event in batch]
                for event in come:
                    if changes := self._event(run, event):
                        yield changes
                if steps := [event for event in come if isinstance(event, Stepped)]:
                    yield self._stepped(run, steps)
                    handed_on = self._hand_on(visitor, Show(run, batches, kept, typed))
                    if handed_on:
                        return
        except EngineError as error:
            yield self._failed(run, error, kept, typed)
        else:
            if run is not None:  # stopped while it waited, or before its second act
                yield self._over(visitor, run)
        finally:
            if not handed_on:
                batches.close()

    def _hand_on(self, visitor: str, show: Show) -> bool:
        """Leave a show to act two; not that of a visitor who has gone or asked something else meanwhile."""
        with self._lock:
            if not self.desk.sessions.is_current(visitor, show.run):
                return False
            self._shows.setdefault(visitor, []).append(show)
            return True

    def steps(self, visitor: str) -> Iterator[dict[str, Any]]:
        """Act two: messages for the player, step by step."""
        with self._lock:
            show = next((show for show in self._shows.get(visitor, ()) if not show.taken), None)
            if show is None:
                return
            show.taken = True
        try:
            with closing(show.batches) as batches:
                for batch in batches:
                    if steps := [event for _, event in batch if isinstance(event, Stepped)]:
                        yield self._stepped(show.run, steps)
        except EngineError as error:
            show.error = error
        show.over = True

    def end(self, visitor: str) -> dict[str, Any]:
        """Act three: the conversation with its answer, or the sentence that says what went wrong."""
        with self._lock:
            shows = self._shows.get(visitor, [])
            show = next((show for show in shows if show.over), None)
            if show is None:
                return {}
            shows.remove(show)
            if not shows:
                del self._shows[visitor]
        if show.error is not None and self.desk.sessions.is_current(visitor, show.run):
            return self._failed(show.run, show.error, show.kept, show.typed)
        return self._over(visitor, show.run)

    def leave(self, visitor: str) -> None:
        """The visitor has gone."""
        with self._lock:
            left = self._shows.pop(visitor, [])
        for show in left:
            if not show.taken:
                show.batches.close()

    def _over(self, visitor: str, run: Run) -> dict[str, Any]:
        """The end of a run; where the visitor began another conversation meanwhile, of the player alone."""
        finished = self._finished(run)
        return finished if self.desk.sessions.is_current(visitor, run) else {"canvas": finished["canvas"]}

    def _stepped(self, run: Run, come: list[Stepped]) -> dict[str, Any]:
        vocabulary = {token: text for event in come for token, text in event.vocabulary.items()}
        steps = [event.step for event in come]
        return {"canvas": protocol.steps_message(run.id, come[0].trace, come[0].number, steps, vocabulary)}

    def _event(self, run: Run, event: Event) -> dict[str, Any]:
        if isinstance(event, Waiting | Loading):
            stoppable = {} if run.waiting else {"box": gr.MultimodalTextbox(submit_btn=False, stop_btn=True)}
            run.waiting = True
            before = event.before if isinstance(event, Waiting) else None
            return {"canvas": protocol.waiting_message(run.id, before), **stoppable}
        if isinstance(event, Started):
            return {
                "canvas": protocol.header_message(run.id, run.trace),
                "chat": look.transcript([*run.asked, {"role": "assistant", "text": "…"}]),
                "box": gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True),
                "ask_notice": "", "settings_notice": "",
            }  # fmt: skip
        return {}

    def _finished(self, run: Run) -> dict[str, Any]:
        ready = {"box": gr.MultimodalTextbox(submit_btn=True, stop_btn=False)}
        if run.trace is None:  # stopped while it waited
            return ready | {"canvas": protocol.waiting_message(run.id, 0)}
        return ready | {"canvas": protocol.done_message(run.id, run.trace)} | self.conversation(run)

    def conversation(self, run: Run) -> dict[str, Any]:
        """The conversation of a run that is over: what is asked next goes on from there."""
        answered = [*run.asked, {"role": "assistant", "text": run.trace.text}]
        return {"chat": look.transcript(answered), "turns": answered}

    def _failed(self, run: Run | None, error: EngineError, kept: list[dict], typed: dict | None) -> dict[str, Any]:
        """The sentence goes beside what caused it; conversation, typed question and last trace stay."""
        sentence, began = labelled(error), run is not None and run.trace is not None
        if error.about in ("settings", "template"):
            changes = {"settings_notice": sentence, "ask_notice": "", "settings": gr.Accordion(open=True)}
        else:
            changes = {"ask_notice": sentence, "settings_notice": ""}
        again = {}
        if began and typed:
            again = {"value": {"text": typed["text"], "files": [typed["picture"]] if typed["picture"] else []}}
        changes["box"] = gr.MultimodalTextbox(submit_btn=True, stop_btn=False, **again)
        if began:
            changes["canvas"] = protocol.done_message(run.id, run.trace)
        elif run is not None:
            changes["canvas"] = protocol.waiting_message(run.id, 0)
        return changes | ({"chat": look.transcript(kept)} if kept or began else {})


def answer(desk: Desk, image: str | None, question: str, settings: dict | None) -> tuple[str, dict]:
    """Answer one question about one picture, for programs.

    `settings` takes the fields of DecodingConfig, all optional: block_size, steps, max_new_tokens, strategy,
    threshold, entropy_bound, factor, temperature, top_k, top_p, seed, lookahead. Returns the answer's text, and the
    trace of the run as JSON.
    """
    if settings is not None and not isinstance(settings, dict):
        raise gr.Error('settings must be an object such as {"steps": 4}.', print_exception=False)
    try:
        config = desk.engine.config(**(settings or {}))
        trace = desk.engine.answer([as_message({"role": "user", "text": question or "", "picture": image})], config)
    except EngineError as error:
        raise gr.Error(str(error), print_exception=False) from error
    return trace.text, trace.to_json()


# -- layout: the page, and the chat tab --

QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass
class View:
    """The components that an answer changes."""

    canvas: gr.HTML
    chat: gr.Chatbot
    turns: gr.State
    box: gr.MultimodalTextbox
    ask_notice: gr.HTML
    settings_notice: gr.HTML
    settings: gr.Accordion

    def components(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]

    def update(self, changes: dict[str, Any]) -> dict[Any, Any]:
        return {getattr(self, name): value for name, value in changes.items()}


@dataclass
class Controls:
    """The settings: by the name of a field of DecodingConfig, and those of the page itself."""

    decoding: dict[str, Any]
    delay: gr.Slider
    records: gr.CheckboxGroup
    template: gr.Textbox

    def components(self) -> list[Any]:
        return [*self.decoding.values(), self.delay, self.records, self.template]

    def read(self, data: dict) -> tuple[dict[str, Any], float, list[str], str]:
        """Decoding settings, seconds of rest, what to record, and the template of the answer."""
        settings = {name: data[control] for name, control in self.decoding.items()}
        return settings, float(data[self.delay] or 0), data[self.records] or [], data[self.template] or ""


def build_page(
    desk: Desk, examples: list[dict[str, str]], gallery: list[Recording], parent: Engine | None = None,
    measured: tuple[dict | None, dict | None] = (None, None),
) -> gr.Blocks:  # fmt: skip
    """The whole page, wired to `desk`.

    `gallery`: recorded runs, the first of which plays until somebody asks; `parent`: the autoregressive model to race
    against; `measured`: a recorded race and a recorded sweep, for those who have not begun one.
    """
    with gr.Blocks(title="DiffusionVL", delete_cache=(3600, 86400), analytics_enabled=False) as page:
        header(desk)
        with gr.Tabs(elem_id="dvl-tabs"):
            with gr.Tab(say("page.chat"), id="chat"):
                chat_tab(desk, page, examples, gallery)
            with gr.Tab(say("page.race"), id="race"):
                race_tab(desk, parent, examples, measured[0])
            with gr.Tab(say("page.explore"), id="explore"):
                explore_tab(desk, examples, measured[1])
            with gr.Tab(say("page.replay"), id="replay"):
                replay_tab(desk, gallery)
            if gallery:
                with gr.Tab(say("page.lessons"), id="lessons"):
                    lessons_tab(gallery[0])
        program_endpoint(desk)
    return page


def header(desk: Desk) -> None:
    about = desk.engine.describe()
    with gr.Row(elem_id="dvl-top"):
        gr.HTML(html_template=look.header_template(about), js_on_load=look.SAY_SCRIPT, apply_default_css=False)
        language = gr.Button("English · 中文", elem_id="dvl-language", size="sm", scale=0)
        language.click(None, js=TOGGLE)
        dark = gr.Button("◐", elem_id="dvl-dark", size="sm", scale=0)
        dark.click(None, js=look.DARK_SCRIPT)


def chat_tab(desk: Desk, page: gr.Blocks, examples: list[dict[str, str]], gallery: list[Recording]) -> None:
    recorded = gallery[0] if gallery else None
    turns = gr.State(recorded.turns if recorded else [])
    with gr.Row(elem_id="dvl-main"):
        with gr.Column(scale=5, min_width=320):
            chat, box, ask_notice, strip, again, fresh = conversation(examples, recorded)
            with gr.Accordion(say("page.settings"), open=True, elem_id="dvl-settings") as settings:
                settings_notice = notice()
                controls = setting_controls(desk)
                link = gr.Button(say("page.link"), size="sm", elem_id="dvl-link")
                address = gr.Textbox(visible=False)
        with gr.Column(scale=7, min_width=320):
            canvas = denoising_canvas(desk, recorded)
    view = View(canvas, chat, turns, box, ask_notice, settings_notice, settings)
    wire(desk, page, view, strip, again, fresh, controls, examples, recorded)
    wire_link(desk, page, view, controls, examples, link, address)


def conversation(examples: list[dict[str, str]], recorded: Recording | None) -> tuple:
    again = gr.Button("Ask again", size="sm", render=False)  # page.css has their Chinese names
    fresh = gr.Button("New conversation", size="sm", render=False)
    chat = gr.Chatbot(
        look.transcript(recorded.turns) if recorded else None, elem_id="dvl-chat", label=say("page.conversation"),
        show_label=False, height=344, render_markdown=False, buttons=[again, fresh], feedback_options=None,
        placeholder=say("page.chat-empty"),
    )  # fmt: skip
    box = gr.MultimodalTextbox(
        elem_id="dvl-box", label=say("page.question"), show_label=False, placeholder=say("page.box"),
        file_types=["image"], file_count="single", max_plain_text_length=200_000, autofocus=False,
    )  # fmt: skip
    ask_notice = notice()
    strip = gr.HTML(
        html_template=look.examples_template(examples), js_on_load=look.EXAMPLES_SCRIPT, apply_default_css=False,
        visible=bool(examples),
    )  # fmt: skip
    return chat, box, ask_notice, strip, again, fresh


def denoising_canvas(desk: Desk, recorded: Recording | None) -> gr.HTML:
    message = None
    if recorded:
        message = protocol.trace_message(recorded.id, recorded.trace, "player.hint")

    def tokenize(asked: dict) -> list[list[Any]]:
        typed = desk.tokenize(str(asked.get("text", "")))
        return [[token, encode_vocabulary({token: raw})[str(token)]] for token, raw in typed]

    return gr.HTML(
        message, html_template=player.TEMPLATE, js_on_load=player.LIVE_SCRIPT, apply_default_css=False,
        server_functions=[steps_source(desk), tokenize], elem_id="dvl-player",
    )  # fmt: skip


def steps_source(desk: Desk) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """The function by which a player asks for steps; gradio calls it by its name, with one value."""

    def missing_steps(asked: dict[str, Any]) -> dict[str, Any] | None:
        """What a page that has `asked["have"]` steps of `asked["run"]` lacks; None when the run is not kept."""
        run, have = str(asked.get("run")), asked.get("have")
        trace = desk.sessions.trace(run)
        if trace is None or not isinstance(have, int):
            return None
        return protocol.missing_message(run, trace, max(0, min(have, len(trace.steps))))

    return missing_steps


def setting_controls(desk: Desk) -> Controls:
    default = desk.engine.default_settings()
    owner = {parameter: name for name, parameter in STRATEGY_PARAMETERS.items()}
    controls: dict[str, Any] = {}

    def number(name: str) -> None:
        controls[name] = gr.Number(
            default[name], label=say(f"page.{name}"), info=say(f"page.{name}-info"), precision=0, min_width=120
        )

    def slider(name: str, low: float, high: float, step: float) -> None:
        applies = owner.get(name, default["strategy"]) == default["strategy"]
        controls[name] = gr.Slider(
            low, high, default[name], step=step, label=say(f"page.{name}"), info=say(f"page.{name}-info"),
            visible=applies, min_width=120,
        )  # fmt: skip

    with gr.Row():
        number("block_size")
        number("steps")
    with gr.Row():
        controls["strategy"] = gr.Dropdown(
            strategies(), value=default["strategy"],
            label=say("page.strategy"), info=strategy_info(default["strategy"]), min_width=240,
        )  # fmt: skip
        slider("threshold", 0, 1, 0.01)
        slider("entropy_bound", 0, 5, 0.05)
        slider("factor", 0.05, 5, 0.05)
    with gr.Row():
        number("max_new_tokens")
        number("seed")
    with gr.Row():
        slider("temperature", 0, 2, 0.05)
        slider("lookahead", 0, 4, 1)
    with gr.Row():
        rest = 0.08 if desk.engine.describe()["parameters"] < 1e8 else 0.0  # a small model is too quick to watch
        delay = gr.Slider(
            0, 1, rest, step=0.02, label=say("page.delay"), info=say("page.delay-info"), min_width=120
        )
    with gr.Row():
        template = gr.Textbox(
            label=say("page.template"), info=say("page.template-info"), placeholder="The ___ is left of the ___.",
            max_length=4000, scale=2, min_width=240,
        )  # fmt: skip
        records = gr.CheckboxGroup(
            [(say(f"page.record-{name}"), name) for name in RECORDS], label=say("page.records"),
            info=say("page.records-info"), min_width=240,
        )  # fmt: skip

    def show_parameter(strategy: str) -> list[Any]:
        return [gr.Dropdown(info=strategy_info(strategy)), *(gr.Slider(visible=o == strategy) for o in owner.values())]

    controls["strategy"].change(
        show_parameter, controls["strategy"], [controls["strategy"], *(controls[name] for name in owner)], **QUICK
    )
    return Controls(controls, delay, records, template)


def strategies() -> list[tuple[Any, str]]:
    """What a choice of strategies offers."""
    return [(say(f"strategy.{name}"), name) for name in STRATEGIES]


def strategy_info(name: str) -> Any:
    return say(f"strategy.{name}-info")


def notice() -> gr.HTML:
    """A place for one sentence; its text is set as text, never as markup."""
    return gr.HTML("", html_template=look.NOTICE_TEMPLATE, js_on_load=look.NOTICE_SCRIPT, apply_default_css=False)


# -- layout: the other tabs --


def replay_tab(desk: Desk, gallery: list[Recording]) -> None:
    """Recorded runs, and trace files of one's own: nothing here needs the model."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            sentence("page.replay-about")
            shelf = gr.HTML(
                html_template=look.gallery_template(gallery), js_on_load=look.EXAMPLES_SCRIPT, apply_default_css=False
            )
            upload = gr.File(
                label=say("page.trace-file"), height=140, elem_id="dvl-trace-file"
            )  # of any type: what is no trace is refused with a sentence
            trouble = notice()
        with gr.Column(scale=7, min_width=320):
            first = protocol.trace_message(gallery[0].id, gallery[0].trace) if gallery else None

            canvas = gr.HTML(
                first, html_template=player.TEMPLATE, js_on_load=player.REPLAY_SCRIPT, apply_default_css=False,
                server_functions=[steps_source(desk)], elem_id="dvl-replay",
            )  # fmt: skip

    def on_pick(event: gr.EventData):
        recording = gallery[event._data["index"]]
        return protocol.trace_message(recording.id, recording.trace), ""

    def on_file(path: str | None):
        if path is None:
            return gr.skip(), ""
        try:
            run = desk.sessions.add(load(path))
        except TraceError as error:
            return gr.skip(), str(error)
        return protocol.trace_message(run.id, run.trace), ""

    shelf.pick(on_pick, None, [canvas, trouble], **QUICK)
    upload.change(on_file, upload, [canvas, trouble], **QUICK)


def question_of_ones_own(desk: Desk, examples: list[dict[str, str]]) -> tuple[gr.MultimodalTextbox, gr.HTML]:
    """A picture and a question, for measuring, and the strip of all examples, which is still to be rendered."""

    def as_asked(example: dict[str, str]) -> dict[str, Any]:
        return {"text": example["question"], "files": [str(desk.own_pictures / example["image"])]}

    first = as_asked(examples[0]) if examples else None
    box = gr.MultimodalTextbox(
        first, label=say("page.question"), show_label=False, placeholder=say("page.box"), file_types=["image"],
        file_count="single", max_plain_text_length=200_000, submit_btn=False, elem_classes="dvl-ask",
    )  # fmt: skip
    strip = gr.HTML(
        html_template=look.examples_template(examples), js_on_load=look.EXAMPLES_SCRIPT, apply_default_css=False,
        visible=bool(examples), render=False,
    )  # fmt: skip

    def on_pick(event: gr.EventData) -> dict[str, Any]:
        return as_asked(examples[event._data["index"]])

    strip.pick(on_pick, None, box, **QUICK)
    return box, strip


def start_and_stop(key: str) -> tuple[gr.Button, gr.Button]:
    """The buttons of a measurement; `key` names what the first one says."""
    with gr.Row():
        start = gr.Button(say(key), variant="primary", size="md")
        return start, gr.Button(say("page.stop"), size="md", interactive=False)


def pressable(start: gr.Button, stop: gr.Button, measuring: bool) -> dict[gr.Button, gr.Button]:
    """Only one of these buttons can be pressed at a time."""
    return {start: gr.Button(interactive=not measuring), stop: gr.Button(interactive=measuring)}


def answer_length(desk: Desk) -> gr.Number:
    return gr.Number(
        desk.engine.default_settings()["max_new_tokens"], label=say("page.max_new_tokens"), precision=0
    )


def asked_message(message: dict | None) -> list[dict[str, Any]]:
    """What stands in a question box, as the engine takes it."""
    message = message or {}
    picture = next(iter(message.get("files") or []), None)
    return [as_message({"role": "user", "text": (message.get("text") or "").strip(), "picture": picture})]


def lane_controls(desk: Desk, parent: Engine | None, number: int) -> list[Any]:
    """Who races in a lane, and how: model, block size, steps, steps to look ahead, strategy, threshold."""
    default = desk.engine.default_settings()
    models = [(say("page.lane-diffusion"), "diffusion")]
    models += [(say("page.lane-parent"), "parent")] if parent is not None else []
    with gr.Group(elem_classes="dvl-lane"):
        who = gr.Radio(models, value=models[-1 if number else 0][1], label=say(f"page.lane-{number + 1}"))
        with gr.Column(visible=who.value == "diffusion") as of_diffusion:
            with gr.Row():
                size = gr.Number(default["block_size"], label=say("page.block_size"), precision=0, min_width=96)
                steps = gr.Number(default["steps"], label=say("page.steps"), precision=0, min_width=96)
                ahead = gr.Number(default["lookahead"], label=say("page.lookahead"), precision=0, min_width=96)
            with gr.Row():
                strategy = gr.Dropdown(
                    strategies(), value="low_confidence_dynamic", label=say("page.strategy"), min_width=240,
                )  # fmt: skip
                threshold = gr.Slider(0, 1, 0.9, step=0.01, label=say("page.threshold"), min_width=160)
    who.change(lambda chosen: gr.Column(visible=chosen == "diffusion"), who, of_diffusion, **QUICK)
    return [who, size, steps, ahead, strategy, threshold]


def race_tab(
    desk: Desk, parent: Engine | None, examples: list[dict[str, str]], recorded: dict | None
) -> None:  # fmt: skip
    """Two ways to the same answer on one clock."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            sentence("page.race-about")
            box, strip = question_of_ones_own(desk, examples)
            start, stop = start_and_stop("race.start")
            strip.render()
            lanes = [lane_controls(desk, parent, number) for number in range(2)]
            with gr.Row():
                repeats = gr.Slider(
                    1, 15, 3, step=2, label=say("page.repeats"), info=say("page.repeats-info"), min_width=240
                )
                length = answer_length(desk)
        with gr.Column(scale=7, min_width=320):
            track = gr.HTML(
                recorded, html_template=race.TEMPLATE, js_on_load=race.LIVE_SCRIPT, apply_default_css=False,
                elem_id="dvl-race-track",
            )  # fmt: skip
    current = gr.State("")

    def lane(values: list[Any], tokens: int) -> Lane:
        who, size, steps, guessed, strategy, threshold = values
        if who == "parent":
            return Lane("", parent, parent.config(max_new_tokens=tokens))
        config = desk.engine.config(
            max_new_tokens=tokens, block_size=size, steps=steps, lookahead=guessed, strategy=strategy,
            threshold=threshold,
        )  # fmt: skip
        return Lane("", desk.engine, config)

    def on_start(message: dict, repeats: int, length: int, *values: Any):
        name = uuid4().hex
        yield {current: name, **pressable(start, stop, True)}
        try:
            half = len(values) // 2
            both = [lane(list(part), length) for part in (values[:half], values[half:])]
            with closing(run_race(asked_message(message), both, int(repeats))) as events:
                for event in events:
                    yield {track: race_message(name, both, event)}
        except (EngineError, ValueError) as error:
            yield {track: race_protocol.failed_message(name, labelled(error))}
        yield pressable(start, stop, False)

    running = start.click(
        on_start, [box, repeats, length, *lanes[0], *lanes[1]], [track, current, start, stop], show_progress="hidden",
        api_visibility="private", **shared(desk),
    )  # fmt: skip

    def on_stop(name: str):
        return {track: race_protocol.stopped_message(name), **pressable(start, stop, False)}

    stop.click(on_stop, current, [track, start, stop], cancels=running, **QUICK)


def race_message(name: str, lanes: list[Lane], event: Running | Result) -> dict[str, Any]:
    if isinstance(event, Running):
        about = [
            race_protocol.about_lane(lane.name, lane.engine.describe()["kind"], lane.config.to_json()) for lane in lanes
        ]
        return race_protocol.progress_message(name, about, event.lane, event.run, event.runs, event.before)
    return race_protocol.result_message(name, [(lane.name, lane.trace, lane.seconds) for lane in event.lanes])


def explore_tab(desk: Desk, examples: list[dict[str, str]], recorded: dict | None) -> None:
    """One question under many settings."""
    size = desk.engine.trained_block_size
    sizes = sorted({1, 4, size, 2 * size})
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            sentence("page.explore-about")
            box, strip = question_of_ones_own(desk, examples)
            start, stop = start_and_stop("page.explore-start")
            trouble = notice()
            strip.render()
            block_sizes = gr.CheckboxGroup(sizes, value=[size], label=say("page.block_size"))
            steps = gr.CheckboxGroup(
                sorted({1, 2, 4, size}), value=sorted({1, 2, 4, size}), label=say("page.steps")
            )
            ways = gr.CheckboxGroup(
                strategies(), value=["low_confidence_static", "low_confidence_dynamic"], label=say("page.strategy"),
            )  # fmt: skip
            with gr.Row():
                repeats = gr.Slider(
                    1, 5, 3, step=1, label=say("page.runs-per-setting"), info=say("page.repeats-info"), min_width=240
                )
                length = answer_length(desk)
        with gr.Column(scale=7, min_width=320):
            chart = gr.HTML(
                recorded, html_template=explore.TEMPLATE, js_on_load=explore.LIVE_SCRIPT, apply_default_css=False,
                elem_id="dvl-explore-chart",
            )  # fmt: skip
    last = gr.State(None)

    def on_start(message: dict, block_sizes: list, steps: list, strategies: list, repeats: int, length: int):
        shown = None
        yield pressable(start, stop, True)
        try:
            config = desk.engine.config(max_new_tokens=length)
            swept = sweep(desk.engine, asked_message(message), config, block_sizes, steps, strategies, int(repeats))
            with closing(swept) as events:
                for shown in explore_protocol.messages(uuid4().hex, map(event_json, events)):
                    yield {chart: shown, last: shown, trouble: ""}
        except EngineError as error:
            if shown is None:
                yield {trouble: labelled(error)}
            else:
                yield {chart: explore_protocol.ended(shown, "failed", labelled(error))}
        yield pressable(start, stop, False)

    def on_stop(shown: dict | None):
        over = shown is None or shown["phase"] != "running"
        ended = {} if over else {chart: explore_protocol.ended(shown, "stopped")}
        return ended | pressable(start, stop, False)

    running = start.click(
        on_start, [box, block_sizes, steps, ways, repeats, length], [chart, last, trouble, start, stop],
        show_progress="hidden", api_visibility="private", **shared(desk),
    )  # fmt: skip
    stop.click(on_stop, last, [chart, start, stop], cancels=running, **QUICK)


def lessons_tab(recorded: Recording) -> None:
    """How it works, drawn from a recorded run."""
    message = lesson_message(recorded.trace, lesson_data(recorded.trace))
    gr.HTML(
        message, html_template=lessons.TEMPLATE, js_on_load=lessons.LIVE_SCRIPT, apply_default_css=False,
        elem_id="dvl-how",
    )  # fmt: skip


def sentence(key: str) -> gr.HTML:
    """One sentence in the visitor's language."""
    return gr.HTML(html_template=look.sentence_template(key), js_on_load=look.SAY_SCRIPT, apply_default_css=False)


# -- wiring: the chat tab, links, programs, files --


def wire(
    desk: Desk, page: gr.Blocks, view: View, strip, again, fresh, controls: Controls, examples: list[dict],
    recorded: Recording | None,
) -> None:  # fmt: skip
    """Connect what people do with the desk; every run streams changes of the view."""
    stage = Stage(desk)

    def ask(data: dict, visitor: str, text: str, picture: str | None, turns: list[dict]):
        settings, rest, records, template = controls.read(data)
        question = {"role": "user", "text": text.strip(), "picture": picture}
        events = desk.ask(visitor, question, turns, settings, records, template)
        yield from map(view.update, stage.begin(visitor, events, so_far(data, visitor), rest, question))

    def so_far(data: dict, visitor: str) -> list[dict]:
        """The conversation as the visitor sees it: `turns` learns of an answer when it is over."""
        run = desk.sessions.going_on(visitor)
        if run is None:
            return data[view.turns]
        return [*run.asked, {"role": "assistant", "text": run.trace.text if run.trace else ""}]

    def on_submit(data: dict, request: gr.Request):
        message = data[view.box] or {}
        picture = next(iter(message.get("files") or []), None)
        before = so_far(data, request.session_hash)
        if before and not before[-1]["text"]:  # nothing is answered yet: this question takes that one's place
            *before, unanswered, _ = before
            picture = picture or unanswered.get("picture")
        if picture and recorded and before == recorded.turns:
            before = []  # the recording is nobody's own conversation
        yield from ask(data, request.session_hash, message.get("text") or "", picture, before)

    def on_again(data: dict, request: gr.Request):
        """The last question once more, under the settings as they are now."""
        turns = so_far(data, request.session_hash)
        last = max(place for place, turn in enumerate(turns) if turn["role"] == "user")  # an empty chat has no button
        yield from ask(data, request.session_hash, turns[last]["text"], turns[last].get("picture"), turns[:last])

    def on_example(data: dict, event: gr.EventData, request: gr.Request):
        example = examples[event._data["index"]]
        yield from ask(data, request.session_hash, example["question"], str(desk.own_pictures / example["image"]), [])

    def on_branch(data: dict, event: gr.EventData, request: gr.Request):
        asked, visitor = event._data, request.session_hash
        settings, rest, records, _ = controls.read(data)
        events = desk.branch(visitor, str(asked["run"]), int(asked["step"]), asked["changes"], settings, records)
        yield from map(view.update, stage.begin(visitor, events, so_far(data, visitor), rest))

    def on_observe(data: dict, event: gr.EventData, request: gr.Request):
        visitor = request.session_hash
        events = desk.observe(visitor, str(event._data["run"]))
        yield from map(view.update, stage.begin(visitor, events, so_far(data, visitor), 0.0))

    def on_occlude(data: dict, event: gr.EventData, request: gr.Request):
        visitor = request.session_hash
        events = desk.occlude(visitor, str(event._data["run"]), event._data["region"])
        yield from map(view.update, stage.begin(visitor, events, so_far(data, visitor), 0.0))

    def on_shown(event: gr.EventData):
        run = desk.sessions.run(str(event._data["run"]))
        over = run is not None and run.trace is not None and run.trace.finish_reason and run.asked
        return view.update(stage.conversation(run)) if over else {view.ask_notice: gr.skip()}

    def on_stop(request: gr.Request):
        desk.sessions.stop(request.session_hash)

    def on_steps(request: gr.Request):
        for changes in stage.steps(request.session_hash):
            yield changes["canvas"]

    def on_end(request: gr.Request):
        return view.update(stage.end(request.session_hash)) or {view.ask_notice: gr.skip()}

    def on_leave(request: gr.Request):
        desk.sessions.leave(request.session_hash)
        stage.leave(request.session_hash)

    def on_new(request: gr.Request):
        desk.sessions.leave(request.session_hash)
        ready = gr.MultimodalTextbox(submit_btn=True, stop_btn=False)
        return {view.turns: [], view.chat: [], view.ask_notice: "", view.box: ready}

    hidden = {"show_progress": "hidden", "api_visibility": "private"}

    def answered_by(begin: Callable, trigger: Callable, inputs: set, how_often: str = "once") -> None:
        acts = trigger(begin, inputs, view.components(), trigger_mode=how_often, **hidden, **shared(desk))
        acts = acts.then(on_steps, None, view.canvas, **hidden, concurrency_limit=None)
        acts.then(on_end, None, view.components(), **QUICK)

    given = {view.turns, *controls.components()}
    answered_by(on_submit, view.box.submit, {view.box, *given})
    answered_by(on_example, strip.pick, given, "multiple")  # the last one that is clicked counts
    answered_by(on_again, again.click, given)
    answered_by(on_branch, view.canvas.branch, given)
    answered_by(on_observe, view.canvas.observe, given)
    answered_by(on_occlude, view.canvas.occlude, given)
    view.canvas.shown(on_shown, None, [view.chat, view.turns, view.ask_notice], **QUICK)
    view.box.stop(on_stop, None, None, **QUICK)
    view.canvas.pause(on_stop, None, None, **QUICK)
    gr.on([fresh.click, view.chat.clear], on_new, None, [view.turns, view.chat, view.ask_notice, view.box], **QUICK)
    page.unload(on_leave)


def wire_link(desk: Desk, page: gr.Blocks, view: View, controls: Controls, examples: list[dict], link, address) -> None:
    """A link that brings back question, example and settings; a page that is opened by one puts them in place."""
    numbers = {name: control for name, control in controls.decoding.items() if name != "strategy"}

    def on_link(data: dict) -> dict:
        turns, message = data[view.turns], data[view.box] or {}
        asked = next((turn for turn in reversed(turns) if turn["role"] == "user"), {})
        shown = [*(turn["picture"] for turn in turns if turn.get("picture")), *(message.get("files") or [])]
        picture = shown[-1] if shown else ""
        settings = {name: data[control] for name, control in controls.decoding.items()}
        example = example_of(picture, examples, desk.own_pictures)
        lost = links.NO_PICTURE if picture and not example else ""
        query = links.query(message.get("text") or asked.get("text", ""), example, examples, settings)
        return {address: query, view.settings_notice: lost}

    def on_open(request: gr.Request) -> dict:
        wanted = links.read(dict(request.query_params), examples)
        changes: dict[Any, Any] = {
            numbers[name]: within(numbers[name], value) for name, value in wanted.numbers.items() if name in numbers
        }
        if wanted.strategy in STRATEGIES:
            changes[controls.decoding["strategy"]] = wanted.strategy
        if wanted.question or wanted.example:
            files = [str(desk.own_pictures / wanted.example)] if wanted.example else []
            changes[view.box] = gr.MultimodalTextbox(value={"text": wanted.question, "files": files})
            changes |= {view.chat: [], view.turns: []}
        return changes or {view.ask_notice: gr.skip()}

    given = {view.turns, view.box, *controls.decoding.values()}
    copied = link.click(on_link, given, [address, view.settings_notice], **QUICK)
    copied.then(None, address, None, js=look.LINK_SCRIPT)
    opened = [view.box, view.chat, view.turns, view.ask_notice, *controls.decoding.values()]
    page.load(on_open, None, opened, **QUICK)


def example_of(picture: str, examples: list[dict], folder: Path) -> str:
    """The name of the example that a picture is, byte for byte; people's own may be called the same. Empty = none."""
    name = Path(picture).name
    known = name in {example["image"] for example in examples} and Path(picture).is_file()
    return name if known and filecmp.cmp(picture, folder / name, shallow=False) else ""


def within(control: gr.Slider | gr.Number, value: float) -> float:
    """The value, as near as the control can show it."""
    low = -LARGEST if control.minimum is None else control.minimum
    high = LARGEST if control.maximum is None else control.maximum
    return min(high, max(low, value))


def program_endpoint(desk: Desk) -> None:
    """`/answer`, for programs; its components are never shown."""

    def for_programs(image: str | None, question: str, settings: dict | None) -> tuple[str, dict]:
        return answer(desk, image, question, settings)

    with gr.Row(visible=False):
        image, question, settings = gr.File(label="image"), gr.Textbox(label="question"), gr.JSON(label="settings")
        text, trace, trigger = gr.Textbox(label="text"), gr.JSON(label="trace"), gr.Button()
    trigger.click(
        for_programs, [image, question, settings], [text, trace], api_name="answer", api_description=answer.__doc__,
        **shared(desk),
    )  # fmt: skip


def shared(desk: Desk) -> dict[str, Any]:
    """One pool for all answers; one more than the engine takes, so that it is the engine that says no."""
    limits = desk.engine.limits
    return {"concurrency_id": "answers", "concurrency_limit": limits.open_runs + limits.waiting_runs + 1}


def routes(desk: Desk) -> list[Route | Mount]:
    """Plain HTTP beside the page: a health check, and what can be downloaded of a run."""

    def health(_: Request) -> Response:
        about = desk.engine.describe()
        return JSONResponse({"status": "loading" if about["loading"] else "ok", **about})

    def fetch(request: Request) -> Response:
        mode = "dark" if request.query_params.get("mode") == "dark" else "light"
        trace = desk.sessions.trace(request.path_params["run"])
        status, media_type, body = download(trace, request.path_params["file"], mode)
        return Response(body, status, media_type=media_type)

    return [
        Route("/health", health),
        Route("/runs/{run}/{file}", fetch),
        Mount("/examples", StaticFiles(directory=desk.own_pictures, check_dir=False)),
    ]


# -- command line --


def make_engine(options: argparse.Namespace, source: str | Path, outline: Outline, turn: FairLock | None) -> Engine:
    """An engine whose weights are still being read."""
    name = Path(source).name if Path(source).is_dir() else str(source)
    lent = spaces.GPU(duration=120) if spaces else None
    engine = Engine.later(outline, limits_of(options), name, accelerate=lent, turn=turn)
    if spaces:  # a Space lends its GPU to what is there before it serves
        engine.wait()
    return engine


def examples_folder(model: str) -> Path:
    """Where the examples for a model are: in its own folder, if it has any."""
    own = Path(model) / "examples"
    return own.resolve() if (own / "examples.json").is_file() else EXAMPLES


def make_desk(options: argparse.Namespace, gallery: list[Recording], pictures: Path) -> tuple[Desk, Engine | None]:
    """What answers, and the parent to race against where there is one. Raises ValueError with a sentence."""
    bundled = Path(options.model).resolve() == BUNDLED
    source = options.parent or (PARENT if bundled and PARENT.is_dir() else None)
    outline = outline_model(options.model, options.device, options.dtype)
    parents = source and outline_parent(source, options.device, options.dtype)  # refused before anything is read
    engine = make_engine(options, options.model, outline, None)
    parent = make_engine(options, source, parents, engine.turn) if source else None
    sessions = Sessions()
    for recording in gallery:
        sessions.keep(recording.id, recording.trace, recording.turns[:1])
    return Desk(engine, sessions, pictures), parent


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(__doc__, BUNDLED, arguments)
    try:
        check_address(options)
        folder = examples_folder(options.model)
        examples, gallery = read_gallery(folder)
        measured = read_measured(folder)
        desk, parent = make_desk(options, gallery, folder)
        page = build_page(desk, examples, gallery, parent, measured)
        serve(page, desk, options)
        for engine in filter(None, (desk.engine, parent)):
            engine.wait()
        page.block_thread()
    except (ValueError, OSError) as error:  # what can't be loaded, and a port that is taken
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while the model was loading
        sys.exit(130)


def serve(page: gr.Blocks, desk: Desk, options: argparse.Namespace) -> None:
    page.queue(max_size=256).launch(
        server_name=options.host, server_port=options.port, share=options.share, i18n=say, prevent_thread_lock=True,
        theme=gr.themes.Base(font=list(SANS), font_mono=list(MONO)).set(**look.theme_settings()),
        head=f"<style>{player.CSS}{race.CSS}{explore.CSS}{lessons.CSS}{look.PAGE_CSS}</style>",
        js=look.LOAD_SCRIPT, footer_links=["api"],
        run_history=False, ssr_mode=False, allowed_paths=[str(desk.own_pictures)], max_file_size="64mb",
        app_kwargs={"routes": routes(desk), "middleware": [Middleware(LanguageFirst)]},
    )  # fmt: skip


if __name__ == "__main__":
    main()
