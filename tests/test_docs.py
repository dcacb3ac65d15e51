"""What the documentation shows is there: images, commands, buttons, and code that imports."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from napari_medverse.cli import _parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])


def blocks(page, language):
    """Return the fenced blocks of a page in a language ("" for none)."""
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for named, text in fenced if named == language]


def commands():
    """Return the words of every whole command shown, after the program's name."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("napari-medverse ") and "..." not in line:
                    words = shlex.split(line, comments=True)[1:]
                    shown = " ".join(words)[:60]
                    found.append(pytest.param(words, id=f"{page.stem}: {shown}"))
    return found


def code():
    """Return every Python block."""
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "python"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_image_and_page_referred_to_is_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("words", commands())
def test_every_command_shown_is_one(words):
    _parser().parse_args(words)


def test_commands_are_found_at_all():
    shown = {param.values[0][0] for param in commands()}
    assert {"predict", "bank", "study", "train", "adapt", "evaluate", "weights"} <= shown


@pytest.mark.parametrize("source", code())
def test_every_python_block_compiles_and_imports_what_exists(source):
    tree = ast.parse(source)
    compile(tree, "docs", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for name in node.names:
                getattr(module, name.name)
        elif isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)


def test_names_in_the_api_pages_exist():
    text = "".join(page.read_text() for page in [*PAGES, DOCS / "python-api.rst"])
    names = re.findall(r"^\.\. autoapi\w+:: ([\w.]+)", text, re.M)
    names += re.findall(r"<(napari_medverse\.[\w.]+)>", text)
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        getattr(importlib.import_module(module), attribute)


def test_buttons_the_pages_name_are_in_the_docks():
    source = "".join(
        path.read_text() for path in (ROOT / "src/napari_medverse/widgets").glob("*.py")
    )
    for page in ("tutorial", "retrieval", "context-size", "training"):
        named = re.findall(r"\*\*([A-Z][^*:]+)\*\*", (DOCS / f"{page}.md").read_text())
        for text in {part.strip() for name in named for part in name.split(">")}:
            assert f'"{text}"' in source, f"{page}.md names '{text}', which no dock has"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    found = importlib.import_module("results_tables")
    monkeypatch.delitem(sys.modules, "results_tables")
    return found


def test_the_speed_page_is_made_from_the_json():
    command = [sys.executable, ROOT / "benchmarks" / "speed", "--print"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert made == (DOCS / "benchmarks.md").read_text(), "run: python benchmarks/speed --table"


def test_a_speed_table_shows_what_the_json_holds(tables, tmp_path):
    assert "has not been measured" in tables.speed_table("study", tmp_path)
    line = {"what": "a | b", "value": 1.2345, "unit": "x", "bar": 2, "least": True, "note": "n"}
    machine = {"processor": "CPU", "threads": 1}
    content = {"date": "2026-01-02", "machine": machine, "lines": [line]}
    (tmp_path / "study.json").write_text(json.dumps(content))
    shown = tables.speed_table("study", tmp_path)
    assert "| a \\| b | 1.23 x | ≥ 2 x | n |" in shown and "2026-01-02, CPU" in shown


def test_quality_tables_show_what_the_json_holds(tables, tmp_path):
    assert "nothing to show" in tables.render(tmp_path)
    entry = {"dataset": "heads", "structure": "skull", "method": "vote", "contexts": 4}
    entry |= {"dice": 0.8125, "dice_sd": 0.02, "dice_missing": 1}
    unknown = entry | {"method": "copy", "dice": None, "dice_sd": None}
    content = {"about": {"model": "tiny"}, "summary": [entry, unknown]}
    compared = {"contexts": 2, "against": "random", "retrieved": 0.75, "drawn": 0.5}
    compared |= {"difference": 0.25, "error": 0.125, "better": 3, "targets": 4}
    content["comparison"] = [compared]
    (tmp_path / "some.json").write_text(json.dumps(content))
    (tmp_path / "speed.json").write_text(json.dumps({"lines": []}))
    shown = tables.render(tmp_path)
    assert "| skull | vote | 0.812 ± 0.020 (1 missing) |" in shown
    assert "| 2 | random | 0.750 | 0.500 | +0.250 ± 0.125 | 3 of 4 |" in shown
    assert "**some** (tiny)" in shown and "copy" not in shown and "speed" not in shown
