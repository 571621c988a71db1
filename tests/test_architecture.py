"""Who may import whom, read from the syntax tree."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> set[str]:
    """Dotted names of the modules a file imports, relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def python_files(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("path", python_files("dvl_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_knows_nothing_of_pages_and_drawing(path):
    assert not roots(path) & {"gradio", "matplotlib", "visualize", "app"}


@pytest.mark.parametrize("path", python_files("visualize"), ids=lambda p: str(p.relative_to(ROOT)))
def test_drawing_reads_the_trace_and_nothing_else_of_the_core(path):
    assert not roots(path) & {"torch", "transformers", "gradio", "app"}
    core = {name for name in imports(path) if name.split(".")[0] == "dvl_core"}
    assert all(name == "dvl_core.trace" or name.startswith("dvl_core.trace.") for name in core)


@pytest.mark.parametrize("name", ["trace", "trace_checks"])
def test_the_trace_needs_the_standard_library_only(name):
    path = ROOT / "dvl_core" / f"{name}.py"
    assert roots(path) <= {*sys.stdlib_module_names, "dvl_core"}
    own = {name for name in imports(path) if name.startswith("dvl_core")}
    assert all(name.startswith("dvl_core.trace") for name in own)


def test_nothing_imports_the_page():
    for folder in ("dvl_core", "visualize"):
        for path in python_files(folder):
            assert "app" not in roots(path)
