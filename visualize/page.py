"""The page's own look: its stylesheet, and the palettes as settings of a Gradio theme (Gradio not needed here)."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from visualize import strings
from visualize.theme import DARK, LIGHT, Palette

SAY_SCRIPT = strings.script("page") + "\nsayAll(element);"
LINK_SCRIPT = f"""(query) => {{
  history.replaceState(null, "", location.pathname + query);
  const button = document.getElementById("dvl-link");
  const said = button.dataset.said || button.textContent;
  button.dataset.said = said;
  const tell = (words) => {{
    button.textContent = words;
    setTimeout(() => {{ button.textContent = said; }}, 2400);
  }};
  const there = () => tell({strings.chosen("page.link-there")}); // no clipboard without https
  if (!navigator.clipboard) return there();
  navigator.clipboard.writeText(location.href).then(() => tell({strings.chosen("page.link-copied")}), there);
}}"""
DARK_SCRIPT = """() => {
  const dark = document.body.classList.toggle("dark");
  try { localStorage.setItem("dvl-mode", dark ? "dark" : "light"); } catch (error) { /* storage may be switched off */ }
}"""

# The strip's pictures get their address, and its buttons their voice, in the browser.
EXAMPLES_SCRIPT = """
const base = ((window.gradio_config || {}).root || "").replace(/\\/$/, "");
for (const img of element.querySelectorAll("img")) img.src = base + "/examples/" + encodeURIComponent(img.dataset.file);
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("pick", { index: Number(button.dataset.index) });
});
"""
NOTICE_TEMPLATE = '<p class="dvl-notice" role="alert"></p>'
NOTICE_SCRIPT = strings.script("page", "trouble") + """
const sentence = element.querySelector("p");
watch("value", () => {
  sentence.textContent = props.value ? sayTrouble(props.value) : "";
  if (props.value) bringBackIntoView(sentence);
});"""


# Light or dark as it was chosen last. Where the columns stand below each other, as on a phone, the settings start
# folded: chat first, the canvas under it.
LOAD_SCRIPT = f"""() => {{
  try {{
    const mode = localStorage.getItem("dvl-mode");
    if (mode) document.body.classList.toggle("dark", mode === "dark");
  }} catch (error) {{ /* storage may be switched off */ }}
  const settle = (tries) => {{
    const dark = document.getElementById("dvl-dark");
    const button = document.querySelector("#dvl-settings button.label-wrap");
    if (!(dark && button)) return tries && setTimeout(() => settle(tries - 1), 100);
    dark.setAttribute("aria-label", {strings.chosen("page.dark")});
    const [chat, canvas] = document.querySelectorAll("#dvl-main > .column");
    const stacked = canvas.getBoundingClientRect().top > chat.getBoundingClientRect().top;
    if (stacked && button.classList.contains("open")) button.click();
  }};
  settle(50);
}}"""

PAGE_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def header_template(about: dict[str, Any]) -> str:
    """Name, purpose and model; `about` has `model`, `parameters` and `device`."""
    return (
        '<header class="dvl-head"><h1>DiffusionVL</h1>'
        '<p data-say="page.purpose">Ask about a picture and watch the answer being denoised, block by block.</p>'
        f'<span class="dvl-model">{literal(about["model"])} · {about["parameters"] / 1e6:,.1f} M parameters · '
        f"{literal(about['device'])}</span></header>"
    )


def examples_template(examples: list[dict[str, str]]) -> str:
    """A strip of buttons, a picture above its question; the script reports the one that is picked."""
    cards = [
        f'<button type="button" data-index="{index}" title="{literal(example["question"])}">'
        f'<img data-file="{literal(example["image"])}" alt="{literal(example.get("title", ""))}">'
        f"<span>{literal(example['question'])}</span></button>"
        for index, example in enumerate(examples)
    ]
    return f'<div class="dvl-strip" role="group" aria-label="Examples">{"".join(cards)}</div>'


def gallery_template(recordings: list) -> str:
    """Cards of recorded runs (`question`, `image`, `trace`); the script reports the one that is picked."""
    cards = [
        f'<button type="button" data-index="{index}"><img data-file="{literal(recording.image)}" alt="">'
        f"<span>{literal(recording.question)}</span>"
        f"<small>{len(recording.trace.answer_ids())} tokens · {len(recording.trace.steps)} steps</small></button>"
        for index, recording in enumerate(recordings)
    ]
    return f'<div class="dvl-strip dvl-shelf" role="group" aria-label="Recorded runs">{"".join(cards)}</div>'


def sentence_template(key: str) -> str:
    """One sentence of the page, in the visitor's language."""
    return f'<p class="dvl-sentence" data-say="{key}">{literal(strings.table("page")[key]["en"])}</p>'


def transcript(turns: list[dict]) -> list[dict[str, Any]]:
    """The conversation as the chat shows it; what people and models wrote is escaped, never markup."""
    shown = []
    for turn in turns:
        if turn.get("shown"):
            shown.append({"role": turn["role"], "content": {"path": turn["shown"], "alt_text": "the picture"}})
        shown.append({"role": turn["role"], "content": escape(turn["text"] or "(empty)", quote=False)})
    return shown


def literal(text: str) -> str:
    """Text for an HTML template that is interpolated later: no markup, no `${...}`, no `{{...}}`."""
    return "".join(f"&#{ord(c)};" if c in "&<>\"'`${}\\" else c for c in text)


def theme_settings() -> dict[str, str]:
    """Keyword arguments for `gradio.themes.Base().set(...)`."""
    light, dark = _settings(LIGHT), _settings(DARK)
    return light | {f"{name}_dark": value for name, value in dark.items()} | {
        "block_border_width": "1px",
        "color_accent": "var(--dvl-accent)",
        "block_shadow": "none",
        "block_label_shadow": "none",
        "button_primary_shadow": "none",
        "button_secondary_shadow": "none",
        "block_radius": "8px",
        "container_radius": "8px",
        "input_radius": "6px",
        "input_border_width": "1px",
        "block_info_text_size": "12px",
        "block_label_text_size": "12px",
        "block_title_text_size": "13px",
        "block_title_text_weight": "600",
        "layout_gap": "16px",
    }  # fmt: skip


def _settings(colours: Palette) -> dict[str, str]:
    return {
        "body_background_fill": colours.page,
        "body_text_color": colours.ink,
        "body_text_color_subdued": colours.muted,
        "background_fill_primary": colours.surface,
        "background_fill_secondary": colours.page,
        "block_background_fill": colours.surface,
        "block_border_color": colours.line,
        "block_info_text_color": colours.muted,
        "block_label_background_fill": colours.surface,
        "block_label_text_color": colours.muted,
        "block_title_text_color": colours.ink,
        "border_color_primary": colours.line,
        "border_color_accent": colours.ink,
        "border_color_accent_subdued": colours.line,
        "panel_background_fill": colours.surface,
        "input_background_fill": colours.surface,
        "input_background_fill_focus": colours.surface,
        "input_border_color": colours.line,
        "input_border_color_focus": colours.muted,
        "input_placeholder_color": colours.muted,
        "color_accent_soft": colours.ahead,
        "slider_color": colours.muted,
        "button_primary_background_fill": colours.accent,
        "button_primary_background_fill_hover": colours.accent,
        "button_primary_border_color": colours.accent,
        "button_primary_text_color": colours.on_accent,
        "button_secondary_background_fill": colours.surface,
        "button_secondary_background_fill_hover": colours.ahead,
        "button_secondary_border_color": colours.line,
        "button_secondary_text_color": colours.ink,
        "error_border_color": colours.alert,
    }
