"""The page: layout and wiring.

    python app.py                          serves the bundled model on http://127.0.0.1:7860
    python app.py --model OWNER/NAME       serves a published checkpoint; a GPU is used where there is one

What is computed comes from `dvl_core.engine`, what is drawn from `visualize`. Every option is also an environment
variable, named after each option below, which is how a Space is set up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

try:
    import spaces  # before torch, or a Space can't lend its GPU
except ImportError:
    spaces = None

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dvl_core.decoding.strategies import STRATEGIES, STRATEGY_PARAMETERS
from dvl_core.engine import Engine, EngineError, Event, Started, Stepped, Waiting
from dvl_core.models.loading import load_model
from dvl_core.serving import limits_of, parse_options
from dvl_core.sessions import Run, Sessions, as_message, shown_copy
from dvl_core.trace import DenoisingTrace
from visualize import page as look
from visualize import player
from visualize.heatmap import confidence_png
from visualize.player import protocol
from visualize.theme import MONO, SANS

HERE = Path(__file__).parent
BUNDLED = HERE / "assets" / "tinyvl"
EXAMPLES = HERE / "assets" / "examples"
RECORDED = "recorded"  # id of the run that plays before anybody has asked

# What a sentence about a setting calls it on the page.
LABELS = {
    "block_size": "Block size", "steps": "Steps per block", "max_new_tokens": "Answer length", "strategy": "Strategy",
    "threshold": "Threshold", "entropy_bound": "Entropy bound", "factor": "Factor", "temperature": "Temperature",
    "seed": "Seed",
}  # fmt: skip


# -- answering --


class Desk:
    """Answers the page's requests. Changes of the page are dicts by the name of a `View` field."""

    def __init__(self, engine: Engine, sessions: Sessions, examples: list[dict[str, str]]):
        self.engine, self.sessions, self.examples = engine, sessions, examples

    def ask(
        self,
        visitor: str,
        text: str,
        picture: str | None,
        turns: list[dict],
        kept: list[dict],
        settings: dict,
        rest: float,
    ) -> Iterator[dict[str, Any]]:
        """Answer `text` as the next turn of `turns`, step by step, with `rest` seconds after every step.

        `kept` is the conversation that stays on the page when this can't be done.
        """
        question = {"role": "user", "text": text.strip(), "picture": picture}
        run = None
        try:
            config = self.engine.config(**settings)
            question["shown"] = self._shown(picture)
            asked = [*turns, question]
            run = self.sessions.open(visitor)
            with closing(self.engine.stream([as_message(turn) for turn in asked], config)) as events:
                for event in events:
                    if changes := self._shown_event(run, event, asked):
                        yield changes
                    if isinstance(event, Stepped):
                        run.stop.wait(rest)
                    if run.stop.is_set():
                        break
        except EngineError as error:
            yield self._failed(run, error, kept, question)
            return
        if self.sessions.is_current(visitor, run):
            yield self._finished(run, asked)

    def example(self, visitor: str, index: int, kept: list[dict], settings: dict, rest: float) -> Iterator[dict]:
        """Start a new conversation with an example."""
        question, picture = self.examples[index]["question"], str(EXAMPLES / self.examples[index]["image"])
        yield from self.ask(visitor, question, picture, [], kept, settings, rest)

    def missing_steps(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """What a page that has `asked["have"]` steps of the run `asked["run"]` lacks; None when it is not kept."""
        run, have = str(asked.get("run")), asked.get("have")
        trace = self.sessions.trace(run)
        if trace is None or not isinstance(have, int):
            return None
        return protocol.missing_message(run, trace, max(0, min(have, len(trace.steps))))

    def answer(self, image: str | None, question: str, settings: dict | None) -> tuple[str, dict]:
        """Answer one question about one picture, for programs.

        `settings` takes the fields of DecodingConfig, all optional: block_size, steps, max_new_tokens, strategy,
        threshold, entropy_bound, factor, temperature, top_k, top_p, seed. Returns the answer's text, and the trace
        of the run as JSON.
        """
        if settings is not None and not isinstance(settings, dict):
            raise gr.Error('settings must be an object such as {"steps": 4}.', print_exception=False)
        try:
            config = self.engine.config(**(settings or {}))
            trace = self.engine.answer([as_message({"role": "user", "text": question or "", "picture": image})], config)
        except EngineError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return trace.text, trace.to_json()

    def _shown(self, picture: str | None) -> str | None:
        own = picture is None or Path(picture).parent == EXAMPLES
        return picture if own else shown_copy(picture, self.engine)

    def _shown_event(self, run: Run, event: Event, asked: list[dict]) -> dict[str, Any]:
        if isinstance(event, Waiting):
            stoppable = {} if run.waiting else {"box": gr.MultimodalTextbox(submit_btn=False, stop_btn=True)}
            run.waiting = True
            return {"canvas": protocol.waiting_message(run.id, event.before), **stoppable}
        run.trace = event.trace
        if isinstance(event, Stepped):
            return {"canvas": protocol.step_message(run.id, run.trace, event.vocabulary)}
        if isinstance(event, Started):
            return {
                "canvas": protocol.header_message(run.id, run.trace),
                "chat": look.transcript([*asked, {"role": "assistant", "text": "…"}]),
                "box": gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True),
                "ask_notice": "", "settings_notice": "",
            }  # fmt: skip
        return {}

    def _finished(self, run: Run, asked: list[dict]) -> dict[str, Any]:
        ready = {"box": gr.MultimodalTextbox(submit_btn=True, stop_btn=False)}
        if run.trace is None:  # stopped while it waited
            return ready | {"canvas": protocol.waiting_message(run.id, 0)}
        answered = [*asked, {"role": "assistant", "text": run.trace.text}]
        return ready | {
            "canvas": protocol.done_message(run.id, run.trace), "chat": look.transcript(answered), "turns": answered
        }  # fmt: skip

    def _failed(self, run: Run | None, error: EngineError, kept: list[dict], question: dict) -> dict[str, Any]:
        """The sentence goes beside what caused it; conversation, typed question and last trace stay."""
        sentence, began = str(error), run is not None and run.trace is not None
        if error.about == "settings":
            for name, label in LABELS.items():
                sentence = f"{label}{sentence.removeprefix(name)}" if sentence.startswith(name + " ") else sentence
            changes = {"settings_notice": sentence, "ask_notice": "", "settings": gr.Accordion(open=True)}
        else:
            changes = {"ask_notice": sentence, "settings_notice": ""}
        typed = {"value": {"text": question["text"], "files": [question["picture"]] if question["picture"] else []}}
        changes["box"] = gr.MultimodalTextbox(submit_btn=True, stop_btn=False, **(typed if began else {}))
        if began:
            changes["canvas"] = protocol.done_message(run.id, run.trace)
        elif run is not None:
            changes["canvas"] = protocol.waiting_message(run.id, 0)
        return changes | ({"chat": look.transcript(kept)} if kept or began else {})


def recorded_turns(desk: Desk, recorded: DenoisingTrace) -> list[dict]:
    """The conversation of the recorded run; its picture is that of the example with the same question."""
    question = recorded.prompt["messages"][-1]["text"]
    pictures = [str(EXAMPLES / example["image"]) for example in desk.examples if example["question"] == question]
    asked = {"role": "user", "text": question, "shown": pictures[0] if pictures else None}
    return [asked, {"role": "assistant", "text": recorded.text}]


# -- layout --


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


def build_page(desk: Desk, recorded: DenoisingTrace | None) -> gr.Blocks:
    """The whole page, wired to `desk`; `recorded` plays until somebody asks."""
    with gr.Blocks(title="DiffusionVL", delete_cache=(3600, 86400), analytics_enabled=False) as page:
        header(desk)
        turns = gr.State([])
        with gr.Row(elem_id="dvl-main"):
            with gr.Column(scale=5, min_width=320):
                chat, box, ask_notice, gallery, fresh = conversation(desk, recorded)
            with gr.Column(scale=7, min_width=320):
                canvas = denoising_canvas(desk, recorded)
        with gr.Accordion("Settings", open=True, elem_id="dvl-settings") as settings:
            settings_notice = notice()
            controls, delay = setting_controls(desk)
        view = View(canvas, chat, turns, box, ask_notice, settings_notice, settings)
        wire(desk, page, view, gallery, fresh, controls, delay)
        program_endpoint(desk)
    return page


def header(desk: Desk) -> None:
    about = desk.engine.describe()
    with gr.Row(elem_id="dvl-top"):
        gr.HTML(html_template=look.header_template(about), js_on_load=None, apply_default_css=False)
        dark = gr.Button("◐", elem_id="dvl-dark", size="sm", scale=0)
        dark.click(None, js="() => { document.body.classList.toggle('dark'); }")


def conversation(desk: Desk, recorded: DenoisingTrace | None) -> tuple:
    fresh = gr.Button("New conversation", size="sm", render=False)
    chat = gr.Chatbot(
        look.transcript(recorded_turns(desk, recorded)) if recorded else None, elem_id="dvl-chat", label="Conversation",
        show_label=False, height=344, render_markdown=False, buttons=[fresh], feedback_options=None,
        placeholder="Drop a picture below and ask about it, or click an example.",
    )  # fmt: skip
    box = gr.MultimodalTextbox(
        elem_id="dvl-box", show_label=False, placeholder="Drop a picture, ask a question …", file_types=["image"],
        file_count="single", max_plain_text_length=200_000, autofocus=False,
    )  # fmt: skip
    ask_notice = notice()
    gallery = gr.HTML(
        html_template=look.examples_template(desk.examples), js_on_load=look.EXAMPLES_SCRIPT, apply_default_css=False,
        visible=bool(desk.examples),
    )  # fmt: skip
    return chat, box, ask_notice, gallery, fresh


def denoising_canvas(desk: Desk, recorded: DenoisingTrace | None) -> gr.HTML:
    hint = "A recorded run of {}. Click an example, or drop a picture and ask."
    message = protocol.trace_message(RECORDED, recorded, hint.format(recorded.model["name"])) if recorded else None

    def missing_steps(asked: dict) -> dict[str, Any] | None:  # gradio wants a function, and gives it one value
        return desk.missing_steps(asked)

    return gr.HTML(
        message, html_template=player.TEMPLATE, js_on_load=player.LIVE_SCRIPT, apply_default_css=False,
        server_functions=[missing_steps], elem_id="dvl-player",
    )  # fmt: skip


def setting_controls(desk: Desk) -> tuple[dict[str, Any], gr.Slider]:
    """The controls by the name of their setting, and the slow-motion delay."""
    default, longest = desk.engine.default_settings(), desk.engine.limits.max_new_tokens
    owner = {parameter: name for name, parameter in STRATEGY_PARAMETERS.items()}
    controls: dict[str, Any] = {}

    def number(name: str, info: str) -> None:
        controls[name] = gr.Number(default[name], label=LABELS[name], info=info, precision=0, min_width=160)

    def slider(name: str, low: float, high: float, step: float, info: str) -> None:
        applies = owner.get(name, default["strategy"]) == default["strategy"]
        controls[name] = gr.Slider(
            low, high, default[name], step=step, label=LABELS[name], info=info, visible=applies, min_width=160
        )

    with gr.Row():
        number("block_size", f"Tokens denoised together; this model was trained with {desk.engine.trained_block_size}.")
        number("steps", "Fewer is faster; as many as the block has tokens is most careful.")
        number("max_new_tokens", f"Longest answer in tokens, up to {longest}.")
        slider("temperature", 0, 2, 0.05, "0 takes the likeliest token, above 0 samples.")
    with gr.Row():
        controls["strategy"] = gr.Dropdown(
            [(name.replace("_", " "), name) for name in STRATEGIES], value=default["strategy"],
            label=LABELS["strategy"], info=strategy_info(default["strategy"]), min_width=240,
        )  # fmt: skip
        slider("threshold", 0, 1, 0.01, "Reveals every token at least this confident.")
        slider("entropy_bound", 0, 5, 0.05, "Most uncertainty one step may take on, in nats.")
        slider("factor", 0.05, 5, 0.05, "Larger reveals more tokens at once.")
        number("seed", "The same seed gives the same answer.")
        rest = 0.08 if desk.engine.describe()["parameters"] < 1e8 else 0.0  # a small model is too quick to watch
        delay = gr.Slider(
            0, 1, rest, step=0.02, label="Slow motion", info="Seconds of rest after each step.", min_width=160
        )

    def show_parameter(strategy: str) -> list[Any]:
        return [gr.Dropdown(info=strategy_info(strategy)), *(gr.Slider(visible=o == strategy) for o in owner.values())]

    controls["strategy"].change(
        show_parameter, controls["strategy"], [controls["strategy"], *(controls[name] for name in owner)],
        queue=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    return controls, delay


def strategy_info(name: str) -> str:
    return (STRATEGIES[name].__doc__ or "").strip().splitlines()[0]


def notice() -> gr.HTML:
    """A place for one sentence; its text is set as text, never as markup."""
    return gr.HTML("", html_template=look.NOTICE_TEMPLATE, js_on_load=look.NOTICE_SCRIPT, apply_default_css=False)


# -- wiring --


def wire(desk: Desk, page: gr.Blocks, view: View, gallery, fresh, controls: dict[str, Any], delay) -> None:
    """Connect what people do with the desk; every answer streams changes of the view."""

    def how(data: dict) -> tuple[dict[str, Any], float]:
        return {name: data[control] for name, control in controls.items()}, float(data[delay] or 0)

    def on_submit(data: dict, request: gr.Request):
        message = data[view.box] or {}
        picture = next(iter(message.get("files") or []), None)
        text, turns = message.get("text") or "", data[view.turns]
        yield from map(view.update, desk.ask(request.session_hash, text, picture, turns, turns, *how(data)))

    def on_example(data: dict, event: gr.EventData, request: gr.Request):
        index, kept = event._data["index"], data[view.turns]
        yield from map(view.update, desk.example(request.session_hash, index, kept, *how(data)))

    def on_stop(request: gr.Request):
        desk.sessions.stop(request.session_hash)

    def on_leave(request: gr.Request):
        desk.sessions.leave(request.session_hash)

    def on_new(request: gr.Request):
        desk.sessions.leave(request.session_hash)
        ready = gr.MultimodalTextbox(submit_btn=True, stop_btn=False)
        return {view.turns: [], view.chat: [], view.ask_notice: "", view.box: ready}

    streaming = {"outputs": view.components(), "show_progress": "hidden", "api_visibility": "private", **shared(desk)}
    given = {view.turns, delay, *controls.values()}
    view.box.submit(on_submit, {view.box, *given}, **streaming)
    gallery.pick(on_example, given, **streaming)
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    view.box.stop(on_stop, None, None, **quick)
    gr.on([fresh.click, view.chat.clear], on_new, None, [view.turns, view.chat, view.ask_notice, view.box], **quick)
    page.unload(on_leave)


def program_endpoint(desk: Desk) -> None:
    """`/answer`, for programs; its components are never shown."""
    with gr.Row(visible=False):
        image, question, settings = gr.File(label="image"), gr.Textbox(label="question"), gr.JSON(label="settings")
        text, trace, trigger = gr.Textbox(label="text"), gr.JSON(label="trace"), gr.Button()
    trigger.click(
        desk.answer, [image, question, settings], [text, trace], api_name="answer", api_description=Desk.answer.__doc__,
        **shared(desk),
    )  # fmt: skip


def shared(desk: Desk) -> dict[str, Any]:
    """One pool for all answers; one more than the engine takes, so that it is the engine that says no."""
    limits = desk.engine.limits
    return {"concurrency_id": "answers", "concurrency_limit": limits.open_runs + limits.waiting_runs + 1}


def routes(desk: Desk) -> list[Route | Mount]:
    """Plain HTTP beside the page: a health check, and what can be downloaded of a run."""

    def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", **desk.engine.describe()})

    def download(request: Request) -> Response:
        trace = desk.sessions.trace(request.path_params["run"])
        if trace is None or trace.finish_reason is None:
            return PlainTextResponse("This run is not kept any more, or has not finished.", status_code=404)
        if request.path_params["file"] == "trace.json":
            return Response(json.dumps(trace.to_json(), ensure_ascii=False), media_type="application/json")
        if request.path_params["file"] == "confidence.png":
            mode = "dark" if request.query_params.get("mode") == "dark" else "light"
            return Response(confidence_png(trace, mode), media_type="image/png")
        return PlainTextResponse("There is trace.json and confidence.png.", status_code=404)

    return [
        Route("/health", health),
        Route("/runs/{run}/{file}", download),
        Mount("/examples", StaticFiles(directory=EXAMPLES, check_dir=False)),
    ]


# -- command line --


def load_examples() -> tuple[list[dict[str, str]], DenoisingTrace | None]:
    """The example questions, and the recorded run; either may be absent.

    The run was recorded with `python -m dvl_core.generate --model assets/tinyvl --image assets/examples/chart.png
    --prompt "Turn the chart into a table." --trace assets/examples/recorded.json`.
    """
    listed, recorded = EXAMPLES / "examples.json", EXAMPLES / "recorded.json"
    examples = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    return examples, DenoisingTrace.load(recorded) if recorded.is_file() else None


def make_desk(options: argparse.Namespace) -> tuple[Desk, DenoisingTrace | None]:
    """Load the model. Raises ValueError with a sentence when it can't be."""
    limits = limits_of(options)
    model, processor = load_model(options.model, options.device, options.dtype)
    name = Path(options.model).name if Path(options.model).is_dir() else options.model
    engine = Engine(model, processor, limits, name, accelerate=spaces.GPU(duration=120) if spaces else None)
    examples, recorded = load_examples()
    sessions = Sessions()
    if recorded is not None:
        sessions.keep(RECORDED, recorded)
    return Desk(engine, sessions, examples), recorded


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(__doc__, BUNDLED, arguments)
    try:
        desk, recorded = make_desk(options)
        serve(build_page(desk, recorded), desk, options)
    except (ValueError, OSError) as error:  # what can't be loaded, and a port that is taken
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)


def serve(page: gr.Blocks, desk: Desk, options: argparse.Namespace) -> None:
    page.queue(max_size=256).launch(
        server_name=options.host, server_port=options.port, share=options.share,
        theme=gr.themes.Base(font=list(SANS), font_mono=list(MONO)).set(**look.theme_settings()),
        head=f"<style>{player.CSS}{look.PAGE_CSS}</style>", js=look.NARROW_SCRIPT, footer_links=["api"],
        run_history=False, ssr_mode=False, allowed_paths=[str(EXAMPLES)], max_file_size="64mb",
        app_kwargs={"routes": routes(desk)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
