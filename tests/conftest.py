"""Fixtures: every test has its own tracking store, one tiny model is built once, real data is found or skipped."""

import contextlib
import copy
import functools
import gc
import importlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.forks import PRELOADED, Forks
from helpers.models import TINY_WORDS, convert_logged
from helpers.project import LEAKED, PROJECT, SHARED_DATA
from helpers.servers import wait_for_server
from helpers.steps import last_json, run_step
from helpers.stores import copy_store, forget_mlflow, working_in
from omegaconf import OmegaConf
from pyarrow import fs

from steps.common.launch import arguments


def pytest_configure() -> None:
    """Forget the run of `mlflow run -e test`, before any fixture: those of a module come before those of a test."""
    for name in LEAKED:
        os.environ.pop(name, None)
    # In a new environment each file is compiled when it is first imported: two processes begin at either end.
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in PRELOADED if os.environ["PYTEST_XDIST_WORKER"] == "gw0" else reversed(PRELOADED):
            importlib.import_module(name)


def pytest_collection_finish() -> None:
    """What has been imported stays; the collector need not look through it again and again."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker begin with its share of the slow tests: what is left to share at the end is short.

    pytest-xdist gives each worker a run of the list, one behind the other, and lets it take from the end of another's.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    slow: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            slow.setdefault(item.path, []).append(item)
    quick = [item for item in items if not item.get_closest_marker("slow")]
    size = len(items) / workers
    ordered: list[pytest.Item] = []
    for number in range(workers):
        # Those of a file stay together: they share what takes long to make, a session of Spark or a model in int8.
        for one in list(slow.values())[number::workers]:
            ordered += one
        count = len(quick) if number == workers - 1 else max(0, round(size * (number + 1)) - len(ordered))
        ordered += quick[:count]
        del quick[:count]
    items[:] = ordered


@pytest.fixture(scope="session", autouse=True)
def registered_schemas():
    arguments.register_schemas()
    # As a launch does. OpenVINO's converter lets the root logger say errors only, and a test may come before the first launch.
    logging.getLogger("steps").setLevel(logging.INFO)


@pytest.fixture(scope="session", autouse=True)
def parsed_once():
    """Hydra reads a dozen files for each config that it composes; what has been parsed is not parsed again."""
    load = OmegaConf.load
    parse = functools.cache(lambda text: load(io.StringIO(text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            OmegaConf, "load", lambda file: copy.deepcopy(parse(file.read())) if hasattr(file, "read") else load(file)
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def hasty_sqlite():
    """Stores of tests need not outlive a power cut."""
    from sqlalchemy import Engine, event

    def hurry(connection, _):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


@pytest.fixture(autouse=True)
def isolated_mlflow(tmp_path, monkeypatch):
    """No leaked environment, a tracking store of its own, no run left active."""
    for name in LEAKED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # mlflow puts the artifacts of a sqlite store into the current folder.
    monkeypatch.chdir(tmp_path)
    yield
    forget_mlflow()
    # mlflow leaves the code of a model that was loaded before the project's, where a process that is started finds it first.
    sys.path = [entry for entry in sys.path if Path(entry).name != "code"]


@pytest.fixture
def log_messages(monkeypatch) -> list[str]:
    """The messages of the project's log, whatever libraries have made of the handlers that caplog relies on."""
    messages: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("steps")
    handler.emit = lambda record: messages.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    return messages


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A tracking store with its tables and nothing in them: making them takes seconds, copying them does not."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path) -> Path:
    """The tracking store that `isolated_mlflow` names, made already."""
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (str(tmp_path / "mlruns" / "0"),))
    return path


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    """A BERT of 32 dimensions and 64 tokens with mean pooling and Normalize, seeded: small, but real in every part."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *TINY_WORDS]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = {
        piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *letters, *(f"##{letter}" for letter in letters)]))
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
    )
    bert.eval().save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    model = SentenceTransformer(
        modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu", prompts={"query": "the cat: "}
    )
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory) -> Path:
    """A few graded pairs whose order any model gets right: equal sentences are alike, others less so."""
    path = tmp_path_factory.mktemp("suite") / "tiny.jsonl"
    pairs = [
        ("the cat is big", "the cat is big", 5),
        ("the red car", "the red car", 5),
        ("a tree in the sky", "the dog and bread", 1),
        ("blue river stone", "an apple for the house", 0),
    ]
    path.write_text("".join(json.dumps({"sentence1": a, "sentence2": b, "score": s}) + "\n" for a, b, s in pairs))
    return path


@pytest.fixture
def step(capfd, store):
    """Run a step in this process; returns (exit code, stdout, stderr)."""

    def run(name: str, *argv: str):
        code = run_step(name, *argv)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory, tiny_model_folder) -> tuple[Path, dict]:
    """A tracking store in which the tiny model was logged once and converted for OpenVINO, and the summary of log_model."""
    folder, shown = tmp_path_factory.mktemp("store"), io.StringIO()
    with working_in(folder), contextlib.redirect_stdout(shown):
        assert run_step("log_model", "model=local", "--model.path", str(tiny_model_folder)) == 0, shown.getvalue()
        convert_logged(last_json(shown.getvalue())["run_id"])
    return folder, last_json(shown.getvalue())


@pytest.fixture
def tiny_run(store, tiny_store, tmp_path):
    """The run of log_model with the tiny model, in this test's own copy of its store; returns its summary."""
    folder, summary = tiny_store
    copy_store(folder, tmp_path)
    return summary


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """An S3 server on loopback, in a process of its own, to which s3:// leads from here on; yields the URI of a bucket."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (tmp_path_factory.mktemp("s3") / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        try:
            wait_for_server(port, server)
            fs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")[0].create_dir("bucket")
            yield "s3://bucket"
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no data at {SHARED_DATA}; set SHARED_DATA to the folder that holds sts/ and corpus/")
    return SHARED_DATA


@pytest.fixture(scope="session")
def all_forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture
def forks(all_forks) -> Forks:
    """Begins `python ...` in a process of its own that has torch and mlflow imported already; ends what a test leaves."""
    yield all_forks
    all_forks.end_all()


@pytest.fixture
def quick_programs(all_forks, monkeypatch):
    """This environment's `python`, `mlflow` and `uvicorn` begin with torch and mlflow imported, whoever begins them."""
    monkeypatch.setattr(sys, "executable", str(all_forks.programs / "python"))


@pytest.fixture
def shell(tmp_path):
    """Run a command line in a new folder, with this environment's programs first; returns the CompletedProcess."""
    folder = tmp_path / "caller"
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in LEAKED}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    # A tracking server has work of its own to do otherwise, in five more processes that import mlflow.
    env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"

    def run(*command: str, cwd: Path = folder, timeout: float = 300, **extra: str):
        return subprocess.run(command, cwd=cwd, env=env | extra, capture_output=True, text=True, timeout=timeout)

    run.folder = folder
    run.env = env
    return run


@pytest.fixture
def start(shell):
    """Start a server that is stopped, with its children, when the test ends."""
    running = []

    def run(*command: str) -> subprocess.Popen:
        log = shell.folder.parent / f"server-{len(running)}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command, cwd=shell.folder.parent, env=shell.env, stdout=stream, stderr=stream, start_new_session=True
            )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def clone(tmp_path) -> Path:
    """A copy of the project as a git repository with one commit, whatever state this checkout is in."""
    folder = tmp_path / "clone"
    shutil.copytree(
        PROJECT, folder, ignore=shutil.ignore_patterns(".git", "__pycache__", ".pytest_cache", "mlruns", "mlflow.db*")
    )
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "test"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder
