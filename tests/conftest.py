"""What every test may ask for: recorded data and tiny checkpoints, built once per session on first use."""

import json
import os
import sys
from pathlib import Path

# before torch is imported: spinning threads slow each other down when several processes share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from fixtures import build_checkpoint
from qwen_tokenizer import qwen_tokenizer
from tiny import tiny_model

from dvl_core.tinyworld.tokenizer import build_tokenizer

GOLDENS = Path(__file__).parent / "data" / "goldens"


@pytest.fixture(scope="module")
def model():
    """A random block-diffusion model."""
    return tiny_model()


@pytest.fixture(scope="module")
def parent():
    """A random autoregressive model."""
    return tiny_model(enable_bd3lm=False)


@pytest.fixture(scope="session")
def tokenizer():
    """TinyWorld's, with the words of a few hundred samples."""
    return build_tokenizer(samples=300)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """`checkpoint(name) -> Path`: folder of a tiny checkpoint of `fixtures.VARIANTS`, up to 80 MB each.

    Do not write into the folder: it is shared by all tests of the session.
    """
    root, built = tmp_path_factory.mktemp("checkpoints"), {}

    def build(name: str) -> Path:
        if name not in built:
            built[name] = build_checkpoint(name, root / name)
        return built[name]

    return build


@pytest.fixture(scope="session")
def checkpoint_with_tokenizer(checkpoint, tmp_path_factory):
    """`checkpoint_with_tokenizer(name) -> Path`: the same checkpoint beside a small Qwen tokenizer, for `load_model`.

    The weights are linked, not copied; do not write into the folder.
    """
    root = tmp_path_factory.mktemp("with_tokenizer")

    def build(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            for file in checkpoint(name).iterdir():
                (folder / file.name).symlink_to(file)
            qwen_tokenizer().save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="session")
def golden():
    """`golden(file)`: a recorded file of tests/data/goldens, parsed (.json) or as a dict of arrays (.npz)."""

    def read(file: str):
        path = GOLDENS / file
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with np.load(path) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def siglip(tmp_path_factory):
    """Folder of a tiny SigLIP, the vision tower of translated language models; do not write into it."""
    from parents import save_tower

    return save_tower(tmp_path_factory.mktemp("tower") / "siglip")


@pytest.fixture(scope="session")
def small_translation(siglip):
    """`small_translation(kind, **settings)`: settings of a translation of a parent of that kind into small shards."""

    def build(kind: str, **settings):
        from dvl_core.translation import TranslationConfig

        tower = {"vision_tower": str(siglip)} if kind == "qwen2" else {}
        small = {"max_shard_size": "0.05MB", "min_pixels": 64, "max_pixels": 1024}
        return TranslationConfig(**small | tower | settings)

    return build


@pytest.fixture(scope="session")
def translated(tmp_path_factory, small_translation):
    """`translated(kind, tied) -> (parent, translated)`: folders, made once; do not write into them."""
    root, made = tmp_path_factory.mktemp("translated"), {}

    def build(kind: str, tied: bool = False) -> tuple[Path, Path]:
        from parents import save_parent

        from dvl_core.translation import translate

        if (kind, tied) not in made:
            parent, destination = save_parent(kind, root / f"{kind}-{tied}", tied), root / f"{kind}-{tied}-dvl"
            translate(parent, destination, small_translation(kind))
            made[kind, tied] = parent, destination
        return made[kind, tied]

    return build


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; tests that want one are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    from browsing import CHROMIUM

    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """`visit(width=..., init=..., query=...)`: a visitor's page; what the browser complained about fails the test."""
    from page_server import page_url

    opened, complaints = [], []

    def open_page(width=1440, height=900, init=None, query="", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        if init:
            page.add_init_script(init)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda m: complaints.append(m.text) if m.type == "error" and "Failed to load" not in m.text else None,
        )
        page.goto(page_url() + query)
        page.wait_for_selector(".dvl[data-phase=recorded]")
        return page

    yield open_page
    for context in opened:
        context.close()
    assert complaints == []
