"""What the documentation says, for the tests that hold it to that: its pages, their blocks of code, their recipes."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Page:
    """A page of the documentation."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(PROJECT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        """Its fenced blocks of a language, each without its fence."""
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)

    def commands(self) -> list[str]:
        """The lines of its bash blocks."""
        return [line for block in self.blocks("bash") for line in block.splitlines() if line.strip()]


def all_pages() -> list[Page]:
    """README.md, CONTRIBUTING.md and the pages of docs/; a changelog tells of the past."""
    folder = sorted((PROJECT / "docs").glob("*.md"))
    return [Page(path) for path in (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *folder)]


def find_page(name: str) -> Page:
    return Page(PROJECT / name)


def read_recipe(title: str, file: str, part: str = "") -> str:
    """The code that a recipe of docs/recipes.md gives for a file: the block below the line that names the file.

    Args:
        part: how that line goes on, where the recipe gives several blocks for the file.

    Raises:
        LookupError: the recipe or its file is not there.
    """
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", find_page("docs/recipes.md").text, re.M | re.S)
    if section is None:
        raise LookupError(f"docs/recipes.md has no recipe {title!r}")
    block = re.search(rf"^`{re.escape(file)}`{re.escape(part)}[^\n]*:\n+```\w+\n(.*?)```", section[1], re.M | re.S)
    if block is None:
        raise LookupError(f"recipe {title!r} has no block for {file}")
    return block[1]


def read_command(command: str) -> tuple[str, list[str]]:
    """The step that a documented command runs, and its arguments as MLproject hands them on."""
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    if words[0] == "python":
        return words[2].removeprefix("steps."), words[3:]
    given = [value.partition("=") for word, value in zip(words, words[1:]) if word == "-P"]
    return words[words.index("-e") + 1], [part for key, _, value in given for part in (f"--{key}", value)]
