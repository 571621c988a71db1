"""The README says what is true: its Python runs, and the files and commands it names exist."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_its_python_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = fenced("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) > 1 and printed[1].endswith("revealed")


def test_its_commands_and_files_exist():
    commands = "\n".join(fenced("bash"))
    for module in set(re.findall(r"python -m (dvl_core[\w.]*)", commands)):
        assert find_spec(module) is not None, module
    for file in set(re.findall(r"\]\((assets/[^)]+)\)|`(dvl_core/\w+/[\w.]+|assets/[\w./-]+)`", README)):
        assert (ROOT / "".join(file)).exists(), file
    tree = README.split("```\napp.py")[1].split("```")[0]
    folder = ""
    for line in ("app.py" + tree).splitlines():
        names = re.match(r"\s*[\w.]+/?(, [\w.]+/?)*", line).group().split(",")
        folder = names[0] if not line.startswith("  ") else folder
        for name in names:
            where = ROOT / (folder if line.startswith("  ") else "") / name.strip()
            assert where.exists(), where


@pytest.mark.parametrize("command", ["app.py", "-m dvl_core.generate", "-m dvl_core.evaluate"])
def test_every_command_explains_itself(command):
    result = subprocess.run([sys.executable, *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "--model" in result.stdout


def test_the_space_card_names_the_pinned_gradio():
    from huggingface_hub import SpaceCard

    card = SpaceCard(README)
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE).group(1)
    assert card.data.sdk_version == pinned
    assert (ROOT / card.data.app_file).exists()
