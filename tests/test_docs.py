"""The documentation, held to what it says: its commands are run, its code blocks too, its links lead somewhere.

test_readme.py runs the commands that need a process or a server of their own.
"""

import importlib
import json
import re
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import PROJECT, Page, all_pages, find_page, read_command, read_recipe
from helpers.steps import last_json
from helpers.suites import spec
from mlflow.projects._project_spec import load_project

from docs import generate
from steps.common.backends import kinds as backend_kinds
from steps.common.corpus import readers
from steps.common.corpus.readers.format import Request
from steps.common.corpus.rows import Column
from steps.common.model import load as models
from steps.common.quality import kinds as suite_kinds
from steps.common.storage.place import locate
from steps.common.validation import serving

PAGES = [page.name for page in all_pages()]
README = find_page("README.md")

# Commands that other tests run: test_readme.py, .ci/run itself, or the test below that their word names.
ELSEWHERE = (
    "pip install mlflow",
    "mlflow ui",
    "mlflow models serve",
    "curl ",
    "mlflow run . -e test",
    "mlflow run . -e check",
    # tests/engines
    "pip install -r spark.txt",
)


def is_step(command: str) -> bool:
    return re.search(r"(^| )(mlflow run \.|python -m steps\.)", command) is not None


def is_elsewhere(command: str) -> bool:
    return command.startswith(ELSEWHERE) or "engine=spark" in command or command in README.blocks("bash")[1]


def commands_by_page() -> dict[str, list[str]]:
    """The step commands to run here, each on one page only, though several may show it."""
    pages, seen = {}, set()
    for name in sorted(PAGES, key=lambda name: name == "README.md"):
        own = [one for one in find_page(name).commands() if is_step(one) and not is_elsewhere(one) and one not in seen]
        seen.update(own)
        if own:
            pages[name] = own
    return pages


def in_ci(command: str) -> bool:
    """Whether .ci/run runs a command of CONTRIBUTING.md, or the test of its name is what that command starts."""
    return command.startswith(("python -m pytest", "python -m docs.generate", "pre-commit")) or (
        command in (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    )


def test_every_command_of_the_documentation_is_run_by_some_test():
    left = [
        f"{page.name}: {command}"
        for page in all_pages()
        for command in page.commands()
        if not (is_step(command) or is_elsewhere(command) or in_ci(command))
    ]
    assert left == []


# Runs each module named as `python -m` does, for its --help; one process, since each import of torch takes seconds.
HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        sys.exit(f"{name} ran on after --help")
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow
def test_helpers_of_tests_start_as_the_documentation_types_them(shell):
    typed = r"(?:PYTHONPATH=(\S+) )?python -m (helpers\.\w+)"
    found = {one for page in all_pages() for one in re.findall(typed, page.text)}
    assert {path for path, _ in found} == {".:tests"}
    names = sorted(name for _, name in found)
    done = shell(sys.executable, "-c", HELP, *names, cwd=PROJECT, PYTHONPATH=".:tests")
    assert done.returncode == 0, done.stderr
    assert [name for name in names if f"PYTHONPATH=.:tests python -m {name}" not in done.stdout] == []


def as_typed_here(command: str, run_ids: dict[str, str], folder: Path) -> str:
    """A documented command with the runs of this test, files of its folder, and the 32 dimensions of the tiny model."""
    for step, run_id in run_ids.items():
        command = command.replace(f"<{step} run>", run_id)
    command = re.sub("(?<!reuse=)latest", run_ids["validate"], command)
    command = re.sub(
        r"\b(texts\.csv|pairs\.csv|pairs\.jsonl|queries\.jsonl|(?<=put=|use=|nst=)embeddings)\b",
        rf"{folder}/\1",
        command,
    )
    return command.replace("truncate_dim=128", "truncate_dim=16").replace(" -P model=all-MiniLM-L6-v2", "")


@pytest.mark.parametrize("name", commands_by_page())
def test_step_commands_of_a_page_run_one_after_another(
    name, step, tiny_run, tiny_model_folder, tiny_suite, tmp_path, monkeypatch
):
    """In this process, on the tiny model, in a folder that holds the files which the page names."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    (tmp_path / "texts.csv").write_text("text,n\nthe cat is big,1\na red car,2\nthe river,3\n")
    (tmp_path / "pairs.jsonl").write_bytes(tiny_suite.read_bytes())
    (tmp_path / "pairs.csv").write_text("sentence_1,sentence_2\na red car,the river\n")
    (tmp_path / "queries.jsonl").write_text(find_page("docs/search.md").blocks("json")[0])
    run_ids = {"log_model": tiny_run["run_id"], "validate": tiny_run["run_id"]}
    for command in commands_by_page()[name]:
        step_name, argv = read_command(as_typed_here(command, run_ids, tmp_path))
        if step_name == "validate":
            suites = re.search(r"\[(.*?)\]", " ".join(argv))
            keys = [f"suites.{one}" for one in suites[1].split(",")] if suites else ["suite"]
            argv += [f"{key}.path={tiny_suite}" for key in keys if f"{key}.path" not in " ".join(argv)]
            argv += ["candidates=[]"]
        if step_name == "log_model":
            argv += ["model=local", f"model.path={tiny_model_folder}"]
        if step_name == "benchmark":
            argv += ["candidates=[torch/f32]", "repeats=1"]
        if step_name == "explore":
            # tests/exploration opens the page.
            argv += ["serve=false"]
        if step_name == "verify" and not (tmp_path / "embeddings").is_dir():
            assert step("encode", f"run_id={tiny_run['run_id']}", f"output={tmp_path}/embeddings")[0] == 0
        code, out, err = step(step_name, *argv)
        assert code == 0, f"{command}: {err}"
        # A command that only shows the config makes no run.
        if step_name in ("encode", "index") and '{"step"' in out:
            run_ids[step_name] = last_json(out)["run_id"]


def blocks_of_python(name: str) -> list[str]:
    """Those of a page but what needs a server or Spark, as tests/model/test_embeddings_api.py and tests/engines have."""
    return [block for block in find_page(name).blocks("python") if "openai" not in block and "pyspark" not in block]


@pytest.mark.parametrize("name", [name for name in PAGES if blocks_of_python(name) and "recipes" not in name])
def test_python_blocks_of_a_page_run(name, step, tiny_run, tmp_path):
    code, _, err = step("encode", f"run_id={tiny_run['run_id']}", f"output={tmp_path}/embeddings", "rows_per_part=120")
    assert code == 0, err
    for block in blocks_of_python(name):
        names: dict = {}
        exec(
            block.replace("<log_model run>", tiny_run["run_id"]).replace('"truncate_dim": 128', '"truncate_dim": 16'),
            names,
        )
        if "pyfunc" in names:
            assert names["pyfunc"].predict(["a"]).shape == (1, 32)
        if "parts" in names:
            assert len(names["parts"]) == 2
        if "vectors" in names:
            assert (names["vectors"].shape, names["vectors"].dtype) == ((240, 32), "float32")


def test_calls_of_the_serving_page_are_answered(step, tiny_model_folder):
    """By the server's code in this process; test_readme.py asks a real server."""
    import mlflow

    code, out, err = step("log_model", "model=local", f"model.path={tiny_model_folder}", "serving.embeddings_api=true")
    assert code == 0, err
    run_id = re.search(r'"run_id": "([0-9a-f]{32})"', out)[1]
    commands = find_page("docs/serving-and-registry.md").commands()
    served = [command for command in commands if command.startswith("mlflow models serve")]
    calls = [shlex.split(command) for command in commands if command.startswith("curl")]
    assert len(served) == len(calls) == 2
    for command, call in zip(served, calls):
        words = command.replace("<log_model run>", run_id).split()
        uri, port = words[words.index("-m") + 1], words[words.index("-p") + 1]
        assert call[1] == f"http://127.0.0.1:{port}/invocations"
        if uri.endswith("embeddings_api"):
            uri = re.search(r'"embeddings_api": "(models:/[^"]+)"', out)[1]
        client = serving.InProcess(models.scoring_app(mlflow.pyfunc.load_model(uri)))
        body = call[call.index("-d") + 1]
        answer = client.post("/invocations", content=body.encode(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text
        vectors = answer.json()
        width = len(vectors["predictions"][0] if "predictions" in vectors else vectors["data"][0]["embedding"])
        assert width == json.loads(body).get("dimensions", 32)


def anchors(page: Page) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md"])
def test_links_of_a_page_lead_to_files_and_headings(name):
    page = find_page(name)
    for target in re.findall(r"""(?:\]\(|<img src=")([^)"\s]+)[)"]""", page.text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(Page(file)), f"{name}: {target}"


def test_images_are_shown_somewhere_and_small():
    images = sorted((PROJECT / "docs" / "images").iterdir())
    assert sum(image.stat().st_size for image in images) < 400_000
    assert all(f"images/{image.name}" in "".join(page.text for page in all_pages()) for image in images)


def test_the_readme_is_a_front_page():
    assert len(find_page("README.md").text.splitlines()) <= 130


def test_the_reference_of_the_configuration_is_current():
    page = generate.PAGE.read_text(encoding="utf-8")
    assert generate.with_reference(page) == page, "run: python -m docs.generate"


def test_the_reference_holds_every_key_of_every_step():
    page = generate.PAGE.read_text(encoding="utf-8")
    for step, schema in generate.STEPS.items():
        for key in generate.read_keys(generate.CONF / f"{step}.yaml"):
            assert generate.find_field(schema, key.path) is not None, f"{step}: {key.path}"
            assert f"| `{key.path}` |" in page


def test_the_tree_of_the_architecture_page_is_the_tree_on_disk():
    (tree,) = find_page("docs/architecture.md").blocks("text")
    folders = {line.split()[0] for line in tree.splitlines() if line.split() and line.split()[0].endswith("/")}
    on_disk = {
        f"{path.name}/"
        for root in ("steps", "steps/common", "conf", "docs", "tests")
        for path in [PROJECT / root, *(PROJECT / root).iterdir()]
        if path.is_dir() and path.name != "__pycache__"
    }
    assert folders >= {f"{path.name}/" for path in (PROJECT / "steps" / "common").iterdir() if path.is_dir()} - {
        "__pycache__/"
    }
    assert folders <= on_disk | {"readers/"}


# Two sentences, and whether they mean the same.
PAIRS = [("a", "a", 1), ("b", "b", 1), ("c", "c", 1), ("d", "d", 0)]


@pytest.fixture
def follow(monkeypatch):
    """Make a module of the code that a recipe gives for a file, under the name it would have."""

    def make(title: str, file: str) -> types.ModuleType:
        name = file.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(read_recipe(title, file), file, "exec"), module.__dict__)
        return module

    return make


def test_the_recipe_for_a_corpus_format_gives_two(follow, monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "_formats", dict(readers._formats))
    for name in ("piped", "notes"):
        readers.register(follow("A new corpus format", f"steps/common/corpus/readers/{name}.py").FORMAT)
    (tmp_path / "a.piped").write_text('n|text\n7|"one | two"\n')
    (tmp_path / "b.note").write_text("cat: a small cat\nno colon\n")
    for name, texts in (("a.piped", ["one | two"]), ("b.note", ["a small cat", None])):
        place = locate(str(tmp_path / name))
        rows = readers.detect_format(place).read(Request(place, [Column("text", "string")], 8))
        assert [text for batch in rows for text in batch.arrays[0].to_pylist()] == texts


def test_the_recipe_for_a_backend_gives_one(follow, monkeypatch):
    recipe = follow("A new backend", "steps/common/backends/kinds/hash.py")
    monkeypatch.setitem(backend_kinds.registered(), recipe.KIND.name, recipe.KIND)
    backend_kinds.check_candidates(["hash/f32"])
    assert importlib.import_module(recipe.KIND.module) is recipe
    recipe.check("f32", ["cpu"])
    with pytest.raises(Exception, match="hashes on one CPU, not on cuda"):
        recipe.check("f32", ["cuda"])

    def request(dim: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(model=types.SimpleNamespace(get_embedding_dimension=lambda: dim))

    # SHA-256 of "a" begins with ca 97 81 12.
    assert recipe.load(request(4)).encode(["a"]).tolist() == [[0xCA, 0x97, 0x81, 0x12]]
    with pytest.raises(Exception, match="the model has 384"):
        recipe.load(request(384))


def test_the_recipe_for_a_kind_of_suite_gives_one(follow, monkeypatch, tmp_path):
    title = "A new kind of suite"
    recipe = follow(title, "steps/common/quality/told_apart.py")
    added = eval(
        "{" + read_recipe(title, "steps/common/quality/kinds.py") + "}", {"__package__": suite_kinds.__package__}
    )
    for name, where in added.items():
        monkeypatch.setitem(suite_kinds.KINDS, name, where)
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"sentence1": a, "sentence2": b, "score": s}) + "\n" for a, b, s in PAIRS))
    (suite,) = suite_kinds.read_suites([spec(kind="told_apart", path=str(path), threshold=50.0)])
    assert isinstance(suite, recipe.ToldApart)
    # One of four is on the wrong side.
    assert suite.compute_metrics(np.array([0.9, 0.8, 0.1, 0.1])) == {"accuracy": 0.75}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_the_recipe_for_an_entry_point_gives_one(clone, shell):
    """In a copy of the project, as a process: its config is read where a step starts."""
    title, schema = "A new entry point", "steps/common/launch/config.py"
    for file in ("conf/lengths.yaml", "steps/lengths.py"):
        (clone / file).write_text(read_recipe(title, file), encoding="utf-8")
    steps = "STEPS: dict[str, type] = {\n"
    types_of_keys, line = (read_recipe(title, schema, part) for part in (", the types", ", the line"))
    insert(clone / schema, steps, f"{types_of_keys}\n\n{steps}{line}")
    insert(clone / "MLproject", "  test:\n", read_recipe(title, "MLproject") + "  test:\n")

    entry = load_project(str(clone)).get_entry_point("lengths")
    path = shell.folder / "own.jsonl"
    path.write_text("".join(json.dumps({"sentence1": a * 7, "sentence2": b, "score": s}) + "\n" for a, b, s in PAIRS))
    overrides = f"suite.path={path} suite.threshold=0 long=6"
    command = entry.compute_command({"suite": "file", "overrides": overrides}, None)
    done = shell("bash", "-c", command, cwd=clone, MLFLOW_TRACKING_URI=f"sqlite:///{shell.folder}/mlflow.db")
    assert done.returncode == 0, done.stderr
    assert '"longest": 7, "long": 4,' in done.stdout
    wrong = shell("python", "-m", "steps.lengths", "longst=3", cwd=clone)
    assert (wrong.returncode, "Did you mean 'long'" in wrong.stderr) == (1, True), wrong.stderr


def insert(path: Path, mark: str, text: str) -> None:
    """Put text in place of a mark that a file holds once."""
    before = path.read_text(encoding="utf-8")
    assert before.count(mark) == 1, mark
    path.write_text(before.replace(mark, text), encoding="utf-8")
