"""What every file of the project keeps to, beyond what ruff, mypy and the import contracts check."""

import ast
import re
import tomllib
from pathlib import Path

from helpers.project import PROJECT

MOST_LINES = 50
MOST_POSITIONAL = 5

STEPS = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted((PROJECT / "steps").rglob("*.py"))]
TESTS = sorted((PROJECT / "tests").rglob("*.py"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(PROJECT)}:{node.lineno}"


def is_message(call: ast.Call) -> bool:
    """Whether it logs a text, whose values stand in the order of their places in it."""
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("debug", "info", "warning", "error")


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{place(path, node)} {node.name} has {lines} lines"
        for path, tree in STEPS
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > MOST_LINES
    ]
    assert long == []


def test_no_call_has_more_values_without_a_name_than_a_reader_can_keep_apart():
    many = [
        f"{place(path, node)} {ast.unparse(node.func)} takes {len(node.args)}"
        for path, tree in STEPS
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL and not is_message(node)
    ]
    assert many == []


def test_no_test_imports_a_test():
    imported = [
        f"{place(path, node)} {node.module}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and any(part == "conftest" or part.startswith("test_") for part in node.module.split("."))
    ]
    assert imported == []


def test_every_script_and_every_folder_of_the_code_has_its_place_in_the_layers():
    """The contracts say nothing of what stands in no layer: it could be imported from below."""
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (contract,) = [one for one in tools["importlinter"]["contracts"] if one["type"] == "layers"]
    placed = {module for layer in contract["layers"] for module in re.split(r" [|:] ", layer)}
    modules = [path.relative_to(PROJECT).with_suffix("").parts for path, _ in STEPS]
    # A script has a name below steps; what is common has one below that, be it a folder or a module beside the folders.
    found = {".".join(parts[: 3 if parts[1] == "common" else 2]) for parts in modules}
    # What holds the others, and files that are no code of a step.
    found -= {"steps.__init__", "steps.common.__init__", "steps.data"}
    assert sorted(found - placed) == []
