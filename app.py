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
from dvl_core.engine import Engine, EngineError, Started, Stepped, Waiting
from dvl_core.models.loading import load_model
from dvl_core.serving import limits_of, parse_options
from dvl_core.sessions import Run, Sessions, as_message, shown_copy
from dvl_core.trace import DenoisingTrace, TraceError
from visualize import player
from visualize.heatmap import confidence_png
from visualize.page import (
    EXAMPLES_SCRIPT,
    NARROW_SCRIPT,
    PAGE_CSS,
    examples_template,
    literal,
    theme_settings,
    transcript,
)
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


# -- answering ---------------------------------------------------------------------------------------------


class Desk:
    """Answers the page's requests. Changes of the page are dicts by the name of a `View` field."""

    def __init__(self, engine: Engine, sessions: Sessions, examples: list[dict[str, str]]):
        self.engine, self.sessions, self.examples = engine, sessions, examples

    def ask(
        self, visitor: str, text: str, picture: str | None, turns: list[dict], settings: dict, delay: float
    ) -> Iterator[dict[str, Any]]:
        """Answer `text` in the conversation `turns`, step by step; `delay` seconds rest after every step."""
        run = self.sessions.open(visitor)
        question = {"role": "user", "text": text.strip(), "picture": picture}
        try:
            config = self.engine.config(**settings)
            question["shown"] = self._shown(picture)
            asked = [*turns, question]
            with closing(self.engine.stream([as_message(turn) for turn in asked], config)) as events:
                for event in events:
                    if isinstance(event, Waiting):
                        yield {"canvas": protocol.waiting_message(run.id, event.before)}
                    elif isinstance(event, Started):
                        run.trace = event.trace
                        yield self._begun(run, asked)
                    elif isinstance(event, Stepped):
                        yield {"canvas": protocol.step_message(run.id, run.trace, event.vocabulary)}
                        run.stop.wait(delay)
                    if run.stop.is_set():
                        break
        except EngineError as error:
            yield self._failed(run, error, turns, question)
            return
        if self.sessions.is_current(visitor, run):
            yield self._finished(run, asked)

    def example(self, visitor: str, index: int, settings: dict, delay: float) -> Iterator[dict[str, Any]]:
        """Start a new conversation with an example."""
        example = self.examples[index]
        yield from self.ask(visitor, example["question"], str(EXAMPLES / example["image"]), [], settings, delay)

    def missing_steps(self, run: str, have: int) -> dict[str, Any] | None:
        """What a page that has `have` steps of a run lacks."""
        trace = self.sessions.trace(str(run))
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

    def _begun(self, run: Run, asked: list[dict]) -> dict[str, Any]:
        return {
            "canvas": protocol.header_message(run.id, run.trace),
            "chat": transcript([*asked, {"role": "assistant", "text": "…"}]),
            "box": gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True),
            "ask_notice": "",
            "settings_notice": "",
        }

    def _finished(self, run: Run, asked: list[dict]) -> dict[str, Any]:
        ready = {"box": gr.MultimodalTextbox(submit_btn=True, stop_btn=False)}
        if run.trace is None:  # stopped while it waited
            return ready
        answered = [*asked, {"role": "assistant", "text": run.trace.text}]
        return ready | {
            "canvas": protocol.done_message(run.id, run.trace),
            "chat": transcript(answered),
            "turns": answered,
        }

    def _failed(self, run: Run, error: EngineError, turns: list[dict], question: dict) -> dict[str, Any]:
        """The sentence goes beside what caused it; conversation, typed question and last trace stay."""
        sentence = str(error)
        if error.about == "settings":
            for name, label in LABELS.items():
                sentence = f"{label}{sentence.removeprefix(name)}" if sentence.startswith(name + " ") else sentence
            changes = {"settings_notice": sentence, "ask_notice": "", "settings": gr.Accordion(open=True)}
        else:
            changes = {"ask_notice": sentence, "settings_notice": ""}
        if run.trace is not None:
            files = [question["picture"]] if question["picture"] else []
            changes |= {
                "canvas": protocol.done_message(run.id, run.trace),
                "chat": transcript(turns),
                "box": gr.MultimodalTextbox(
                    value={"text": question["text"], "files": files}, submit_btn=True, stop_btn=False
                ),
            }
        return changes


def recorded_turns(desk: Desk, recorded: DenoisingTrace) -> list[dict]:
    """The conversation of the recorded run; its picture is that of the example with the same question."""
    question = recorded.prompt["messages"][-1]["text"]
    pictures = [str(EXAMPLES / example["image"]) for example in desk.examples if example["question"] == question]
    asked = {"role": "user", "text": question, "shown": pictures[0] if pictures else None}
    return [asked, {"role": "assistant", "text": recorded.text}]


# -- layout --------------------------------------------------------------------------------------------------


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
        gr.HTML(
            html_template=(
                '<header class="dvl-head"><h1>DiffusionVL</h1><p>Ask about a picture and watch the answer being denoised, '
                f'block by block.</p><span class="dvl-model">{literal(about["model"])} · '
                f"{about['parameters'] / 1e6:,.1f} M parameters · {literal(about['device'])}</span></header>"
            ),
            js_on_load=None,
            apply_default_css=False,
        )
        dark = gr.Button("◐", elem_id="dvl-dark", size="sm", scale=0)
        dark.click(None, js="() => { document.body.classList.toggle('dark'); }")


def conversation(desk: Desk, recorded: DenoisingTrace | None) -> tuple:
    fresh = gr.Button("New conversation", size="sm", render=False)
    chat = gr.Chatbot(
        transcript(recorded_turns(desk, recorded)) if recorded else None, elem_id="dvl-chat", label="Conversation", show_label=False, height=344, render_markdown=False, buttons=["copy", fresh],
        feedback_options=None, placeholder="Drop a picture below and ask about it, or click an example.",
    )  # fmt: skip
    box = gr.MultimodalTextbox(
        elem_id="dvl-box", show_label=False, placeholder="Drop a picture, ask a question …", file_types=["image"],
        file_count="single", max_plain_text_length=200_000, autofocus=False,
    )  # fmt: skip
    ask_notice = notice()
    gallery = gr.HTML(
        html_template=examples_template(desk.examples), js_on_load=EXAMPLES_SCRIPT, apply_default_css=False,
        visible=bool(desk.examples),
    )  # fmt: skip
    return chat, box, ask_notice, gallery, fresh


def denoising_canvas(desk: Desk, recorded: DenoisingTrace | None) -> gr.HTML:
    message = None
    if recorded is not None:
        message = protocol.trace_message(
            RECORDED, recorded, "A recorded run. Click an example, or drop a picture and ask."
        )

    def missing_steps(run: str, have: int) -> dict[str, Any] | None:
        return desk.missing_steps(run, have)

    return gr.HTML(
        message,
        html_template=player.TEMPLATE,
        js_on_load=player.LIVE_SCRIPT,
        apply_default_css=False,
        server_functions=[missing_steps],
        elem_id="dvl-player",
    )


def setting_controls(desk: Desk) -> tuple[dict[str, Any], gr.Slider]:
    """The controls by the name of their setting, and the slow-motion delay."""
    default, limits = desk.engine.default_settings(), desk.engine.limits
    trained = desk.engine.trained_block_size
    controls: dict[str, Any] = {}
    with gr.Row():
        controls["block_size"] = number(default, "block_size", f"Tokens denoised together; trained with {trained}.")
        controls["steps"] = number(
            default, "steps", "Fewer is faster; as many as the block has tokens is most careful."
        )
        controls["max_new_tokens"] = number(
            default, "max_new_tokens", f"Longest answer in tokens, up to {limits.max_new_tokens}."
        )
        controls["temperature"] = gr.Slider(
            0, 2, default["temperature"], step=0.05, label=LABELS["temperature"], min_width=160,
            info="0 takes the likeliest token, above 0 samples.",
        )  # fmt: skip
    with gr.Row():
        controls["strategy"] = gr.Dropdown(
            [(name.replace("_", " "), name) for name in STRATEGIES], value=default["strategy"], label=LABELS["strategy"],
            info=strategy_info(default["strategy"]), min_width=240,
        )  # fmt: skip
        explained = {
            "threshold": (0, 1, 0.01, "Reveals every token at least this confident."),
            "entropy_bound": (0, 5, 0.05, "Most uncertainty one step may take on, in nats."),
            "factor": (0.05, 5, 0.05, "Larger reveals more tokens at once."),
        }
        for name, (low, high, step, info) in explained.items():
            shown = STRATEGY_PARAMETERS.get(default["strategy"]) == name
            controls[name] = gr.Slider(
                low, high, default[name], step=step, label=LABELS[name], info=info, visible=shown, min_width=160
            )
        controls["seed"] = number(default, "seed", "The same seed gives the same answer.")
        delay = gr.Slider(
            0, 1, 0.08, step=0.02, label="Slow motion", info="Seconds of rest after each step.", min_width=160
        )
    parameters = list(explained)
    controls["strategy"].change(
        lambda strategy: [gr.Dropdown(info=strategy_info(strategy))]
        + [gr.Slider(visible=STRATEGY_PARAMETERS.get(strategy) == name) for name in parameters],
        controls["strategy"],
        [controls["strategy"], *(controls[name] for name in parameters)],
        queue=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    return controls, delay


def number(default: dict[str, Any], name: str, info: str) -> gr.Number:
    return gr.Number(default[name], label=LABELS[name], info=info, precision=0, min_width=160)


def strategy_info(name: str) -> str:
    return (STRATEGIES[name].__doc__ or "").strip().splitlines()[0]


def notice() -> gr.HTML:
    """A place for one sentence; its text is set as text, never as markup."""
    return gr.HTML(
        "",
        html_template='<p class="dvl-notice" role="alert"></p>',
        js_on_load="const p = element.querySelector('p'); watch('value', () => { p.textContent = props.value || ''; });",
        apply_default_css=False,
    )


# -- wiring --------------------------------------------------------------------------------------------------


def wire(
    desk: Desk,
    page: gr.Blocks,
    view: View,
    gallery: gr.HTML,
    fresh: gr.Button,
    controls: dict[str, Any],
    delay: gr.Slider,
) -> None:
    def settings_of(data: dict) -> dict[str, Any]:
        return {name: data[control] for name, control in controls.items()}

    def on_submit(data: dict, request: gr.Request):
        message = data[view.box] or {}
        picture = next(iter(message.get("files") or []), None)
        for changes in desk.ask(
            request.session_hash,
            message.get("text") or "",
            picture,
            data[view.turns],
            settings_of(data),
            data[delay] or 0,
        ):
            yield view.update(changes)

    def on_example(data: dict, event: gr.EventData, request: gr.Request):
        for changes in desk.example(request.session_hash, event._data["index"], settings_of(data), data[delay] or 0):
            yield view.update(changes)

    def on_stop(request: gr.Request):
        desk.sessions.stop(request.session_hash)

    def on_leave(request: gr.Request):
        desk.sessions.leave(request.session_hash)

    def on_new(request: gr.Request):
        desk.sessions.leave(request.session_hash)
        return {
            view.turns: [],
            view.chat: [],
            view.ask_notice: "",
            view.box: gr.MultimodalTextbox(submit_btn=True, stop_btn=False),
        }

    limits = desk.engine.limits
    streaming = {
        "outputs": view.components(),
        "show_progress": "hidden",
        "concurrency_id": "answers",
        "concurrency_limit": limits.open_runs + limits.waiting_runs + 1,
        "api_visibility": "private",
    }
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
    limits = desk.engine.limits
    trigger.click(
        desk.answer, [image, question, settings], [text, trace], api_name="answer", api_description=Desk.answer.__doc__,
        concurrency_id="answers", concurrency_limit=limits.open_runs + limits.waiting_runs + 1,
    )  # fmt: skip


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


# -- command line ----------------------------------------------------------------------------------------------


def load_examples() -> tuple[list[dict[str, str]], DenoisingTrace | None]:
    """The example questions, and the recorded run; either may be absent."""
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
    except (ValueError, TraceError) as error:
        sys.exit(_refuse(str(error)))
    page = build_page(desk, recorded)
    page.queue(max_size=256).launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        theme=gr.themes.Base(font=list(SANS), font_mono=list(MONO)).set(**theme_settings()),
        head=f"<style>{player.CSS}{PAGE_CSS}</style>",
        js=NARROW_SCRIPT,
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        allowed_paths=[str(EXAMPLES)],
        max_file_size="64mb",
        app_kwargs={"routes": routes(desk)},
    )


def _refuse(sentence: str) -> int:
    print(f"app.py: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
