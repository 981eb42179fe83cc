"""What the documentation names is there: files, pages, commands and errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from corrigenda import errors
from corrigenda.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_or_links_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    there = {
        path.relative_to(ROOT).as_posix()
        for room in ("corrigenda", "tests", "benchmarks", "deploy")
        for path in (ROOT / room).rglob("*.py")
    }
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)} == set()
    linked = {link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text) if not (page.parent / link).exists()}
    assert linked == set()


def test_every_page_can_be_reached() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert set(re.findall(r": ([\w/-]+\.md)$", menu, re.MULTILINE)) == pages


def test_every_error_has_its_place() -> None:
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    tree = errors.__doc__ or ""
    assert {name for name in names if f"`{name}`" not in page} == set()
    assert {name for name in names if not re.search(rf"\b{name}\b", tree)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_a_page_shows_are_there(page: Path) -> None:
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for line in re.findall(r"^\$? ?corrigenda ([a-z].*)$", text, re.MULTILINE):
        command: Any = typer.main.get_command(app)
        words = line.partition(" #")[0].split()
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= options, line
