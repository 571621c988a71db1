"""A run as one web page that needs nothing else: no server, no network, no second file.

It holds the player that the app has, the picture, question and answer as plain text, the settings, and the trace, which
can be downloaded from the page and read back with `trace_of_page`. Its Content-Security-Policy forbids the browser to
fetch anything, and to run any script but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from dvl_core.trace import DenoisingTrace, TraceError
from visualize import player, strings
from visualize.export.pictures import safe_uri
from visualize.export.size import Trimmed, compact, fit
from visualize.player import protocol

LARGEST = 590_000  # bytes of a page, as far as trimming what was observed can do it
_HERE = Path(__file__).parent
_PAGE, _STYLE, _OWN_SCRIPT = ((_HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
_MESSAGE = re.compile(r'<script type="application/json" id="dvl-export-message">(.*?)</script>', re.DOTALL)
RUN = "saved"


def page_of_trace(trace: DenoisingTrace) -> str:
    """The page of `trace`; what was observed is made coarser, or left out, where it would exceed `LARGEST` bytes."""
    data = trace.to_json()
    data["images"] = [{**image, "data": safe_uri(image["data"])} for image in data["images"]]
    shell = _fill(trace, "", Trimmed(rounded=True, pooled=2, candidates=5))
    data, trimmed = fit(data, LARGEST - len(shell.encode("utf-8", "replace")))
    message = protocol.trace_message(RUN, trace) | {"trace": data}
    return _fill(trace, script_safe(compact(message)), trimmed)


def trace_of_page(html: str) -> DenoisingTrace:
    """The trace that a page holds. Raises `TraceError` when it is not such a page."""
    found = _MESSAGE.search(html)
    if found is None:
        raise TraceError("This page holds no trace: expected one that was exported from a run.")
    try:
        message = json.loads(found[1])
    except json.JSONDecodeError as error:
        raise TraceError(f"This page's trace is damaged: it is not valid JSON ({error}).") from error
    return DenoisingTrace.from_json(message.get("trace") if isinstance(message, dict) else None)


def script_safe(json_text: str) -> str:
    """JSON for a script element: nothing in it ends the element, begins a comment, or ends a line of JavaScript."""
    special = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return "".join(special.get(character, character) for character in json_text)


def _fill(trace: DenoisingTrace, message: str, trimmed: Trimmed) -> str:
    script = _script()
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    return Template(_PAGE).substitute(
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        description=escape(" ".join(trace.text.split())[:200]),
        title=escape(" ".join(trace.question.split())[:80] or "DiffusionVL"),
        style=f"{player.CSS}\n{_STYLE}",
        turns="\n    ".join(_turn(role, text) for role, text in [*_turns(trace), ("assistant", trace.text)]),
        told="\n    ".join(_facts(trace)),
        settings="".join(_setting(name, value) for name, value in _settings(trace)),
        trimmed=_trimmed(trimmed),
        player=player.TEMPLATE,
        message=message,
        script=script,
        purpose=_english("purpose"),
        dark=_english("dark"),
        conversation=_english("conversation"),
        settings_title=_english("settings"),
        trace_link=_english("trace"),
        noscript=_english("no-script"),
    )


def _script() -> str:
    """Player and page, each in a function of its own, so that neither sees the other's names."""
    parts = (
        "(() => {", "const createPlayer = (() => {", player.SCRIPT, "return createDiffusionPlayer;", "})();",
        strings.script("export"), _OWN_SCRIPT, "})();",
    )  # fmt: skip
    return "\n".join(parts).replace("</", "<\\/").replace("<!--", "<\\!--")


def _turns(trace: DenoisingTrace) -> list[tuple[str, str]]:
    messages = [m for m in trace.prompt.get("messages") or [] if isinstance(m, dict)]
    return [(str(m.get("role", "")), str(m.get("text", ""))) for m in messages]


def _turn(role: str, text: str) -> str:
    shown = escape(text) if text.strip() else _english("empty")
    said = "" if text.strip() else ' data-say="export.empty"'
    return f'<p class="dvl-export-turn" data-role="{"user" if role == "user" else "assistant"}"{said}>{shown}</p>'


def _facts(trace: DenoisingTrace) -> list[str]:
    told = {
        "model": str(trace.model.get("name", "")), "tokens": len(trace.answer_ids()), "forwards": trace.forwards,
        "seconds": f"{trace.seconds:.2f}",
    }  # fmt: skip
    facts = [_sentence("told", told)]
    if trace.parent is not None:
        changed = len({position for _, position, _ in trace.changes})
        facts.append(_sentence("branch", {"step": trace.parent["step"], "changes": changed}))
    return facts


def _settings(trace: DenoisingTrace) -> list[tuple[str, Any]]:
    about = {name: trace.model.get(name, "") for name in ("name", "family", "kind", "device", "dtype")}
    measured = {
        "prompt_tokens": trace.prompt.get("num_tokens", ""), "answer_positions": trace.length,
        "finish_reason": trace.finish_reason, "prefill_milliseconds": trace.prefill_milliseconds,
    }  # fmt: skip
    return [*(("model" if k == "name" else k, v) for k, v in about.items()), *trace.settings.items(), *measured.items()]


def _setting(name: str, value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<div><dt>{escape(name)}</dt><dd>{escape(shown)}</dd></div>"


def _trimmed(trimmed: Trimmed) -> str:
    key = "left-out" if trimmed.left_out else "pooled" if trimmed.pooled > 1 else "rounded" if trimmed.rounded else ""
    told = [_sentence(key, {"factor": trimmed.pooled} if key == "pooled" else {})] if key else []
    told += [_sentence("fewer", {"n": trimmed.candidates})] if trimmed.candidates else []
    return f'<p class="dvl-export-told">{" ".join(told)}</p>' if told else ""


def _sentence(name: str, values: dict[str, Any]) -> str:
    """A sentence in English whose values the page's script says again in the reader's language."""
    text = escape(_english(name).format(**values))
    return f'<span data-key="export.{name}" data-values="{escape(json.dumps(values))}">{text}</span>'


def _english(name: str) -> str:
    return strings.table("export")[f"export.{name}"]["en"]
