"""What a visitor does on the page, for tests in a real browser; the fixtures `browser` and `visit` are in conftest."""

import json
import os
import shutil
import urllib.request

from page_server import page_url

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
if CHROMIUM is None and os.path.exists("/usr/bin/chromium"):
    CHROMIUM = "/usr/bin/chromium"

# What the cells say, as people read it: the answer up to its end.
SHOWN_TEXT = (
    """[...document.querySelectorAll('.dvl-cell')].filter((c) => !c.dataset.after).map((c) => c.textContent).join('')"""
)
PLAYER = "document.querySelector('#dvl-player .dvl').parentElement.diffusionPlayer"
DRAWN = "() => { const d = document.querySelector('.dvl').dataset; return Number(d.cursor) === Number(d.received); }"


def data(page) -> dict:
    return page.evaluate("({...document.querySelector('.dvl').dataset})")


def wait_phase(page, phase: str, timeout=20_000):
    page.wait_for_function(f"document.querySelector('.dvl').dataset.phase === '{phase}'", timeout=timeout)


def set_number(page, label: str, value):
    field = page.get_by_role("spinbutton", name=label, exact=True)
    field.fill(str(value))
    field.press("Tab")


def slow_motion(page, seconds):
    page.get_by_label("number input for Slow motion").fill(str(seconds))
    page.get_by_label("number input for Slow motion").press("Tab")


def click_example(page, index=0):
    page.locator(".dvl-strip button").nth(index).click()


def finish(page, after: str = ""):
    """Wait until a run is over and drawn; `after`: the run before it."""
    if after:
        page.wait_for_function(f"document.querySelector('.dvl').dataset.run !== '{after}'")
    wait_phase(page, "finished")
    page.wait_for_function(DRAWN)


def trace_of(page) -> dict:
    with urllib.request.urlopen(f"{page_url()}runs/{data(page)['run']}/trace.json") as answer:
        return json.loads(answer.read())


def seek(page, step: int):
    page.evaluate(f"{PLAYER}.pause(); {PLAYER}.seek({step})")
    page.wait_for_selector(f".dvl[data-cursor='{step}']")


def show(page, message: dict):
    """Give the player a message and wait until it has been drawn, which happens once per animation frame."""
    drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
    page.evaluate(f"(m) => {{ {PLAYER}.receive(m); return {drawn}; }}", message)
