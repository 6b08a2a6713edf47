"""Corpora in an object store and on a Hub: real servers on loopback, and what is said where nothing answers."""

import bz2
import gzip
import hashlib
import http.server
import io
import json
import lzma
import re
import threading
from urllib.parse import parse_qs, unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus, read, refusal_of, table_of, texts_of
from helpers.hub import closed_port, use_endpoint
from pyarrow import fs

from steps.common.errors import UserError
from steps.common.storage import place as files

CSV = 'id,text\n1,"one\nline and another"\n2,Grüße\n'.encode()


def upload(uri: str, content: bytes) -> str:
    place = files.locate(uri)
    with place.filesystem.open_output_stream(place.path, compression=None) as stream:
        stream.write(content)
    return uri


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=2)
    return sink.getvalue()


# S3


def test_a_bucket_holds_the_same_corpus_as_a_folder(s3, tmp_path):
    contents = {
        "a.csv": CSV,
        "sub/b.csv.gz": gzip.compress(CSV),
        "sub/c.csv.bz2": bz2.compress(CSV),
        "sub/d.csv.xz": lzma.compress(CSV),
        "sub/e.csv.zst": pa.compress(CSV, codec="zstd", asbytes=True),
        "_SUCCESS": b"",
        ".hidden.csv": b"no",
        "_temporary/f.csv": b"no",
        "notes.md": b"no",
    }
    for name, content in contents.items():
        upload(f"{s3}/same/{name}", content)
        (tmp_path / "same" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "same" / name).write_bytes(content)
    there, here = open_corpus(f"{s3}/same/", id_column="id"), open_corpus(tmp_path / "same", id_column="id")
    assert read(there) == read(here)
    assert there.rows == 10
    assert [source.sha256 for source in there.sources] == [source.sha256 for source in here.sources]
    assert [str(source.place) for source in there.sources][:2] == [f"{s3}/same/a.csv", f"{s3}/same/sub/b.csv.gz"]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "orc"])
def test_a_file_of_columns_is_read_from_a_bucket(s3, tmp_path, ending):
    from pyarrow import feather, orc

    table = pa.table({"id": list(range(100)), "text": [f"text {i}" for i in range(100)]})
    write = {"parquet": pq.write_table, "arrow": feather.write_feather, "orc": orc.write_table}[ending]
    write(table, str(tmp_path / f"c.{ending}"))
    content = (tmp_path / f"c.{ending}").read_bytes()
    corpus = open_corpus(upload(f"{s3}/columns/c.{ending}", content), id_column="id")
    assert read(corpus, 7).column("text").to_pylist() == table["text"].to_pylist()
    assert corpus.sources[0].sha256 == hashlib.sha256(content).hexdigest()


def test_a_glob_in_a_bucket_takes_what_it_matches_in_name_order(s3):
    for name in ("b1.txt", "a1.txt", "a2.csv", "deep/c1.txt", ".d1.txt"):
        upload(f"{s3}/glob/{name}", f"{name}\n".encode())
    assert texts_of(f"{s3}/glob/*1.txt") == ["a1.txt", "b1.txt"]
    assert texts_of(f"{s3}/glob/**/*1.txt") == ["a1.txt", "b1.txt", "deep/c1.txt"]
    assert texts_of(f"{s3}/gl?b/[b]1.txt") == ["b1.txt"]


def test_the_folders_of_a_bucket_name_columns(s3):
    upload(f"{s3}/keys/lang=en/c.txt", b"cat\n")
    upload(f"{s3}/keys/lang=gr%C3%BC n/c.txt", b"Katze\n")
    table = table_of(f"{s3}/keys", keep_columns=["lang"])
    assert table.column("lang").to_pylist() == ["en", "grü n"]
    table = table_of(f"{s3}/keys/*/*.txt", keep_columns=["lang"])
    assert table.column("lang").to_pylist() == ["en", "grü n"]


@pytest.mark.parametrize("name", ["a b.txt", "50%25.txt", "Grüße.txt", "a#b.txt", "a+b&c.txt", "[x].txt", "what?.txt"])
def test_an_object_is_found_by_its_name_as_it_is(s3, name):
    uri = upload(f"{s3}/names/{name}", b"text\n")
    (source,) = open_corpus(uri).sources
    assert str(source.place) == uri
    assert texts_of(str(source.place)) == ["text"]


def test_options_for_the_filesystem_may_stand_behind_a_uri(s3):
    upload(f"{s3}/options/c.txt", b"text\n")
    corpus = open_corpus(f"{s3}/options/c.txt?region=us-east-1&scheme=http")
    assert str(corpus.sources[0].place) == f"{s3}/options/c.txt"


def test_a_secret_in_a_uri_is_not_shown_again(s3):
    bucket = s3.removeprefix("s3://")
    message = refusal_of(f"s3://key:hush@{bucket}/none.txt")
    upload(f"{s3}/secret.txt", b"text\n")
    corpus = open_corpus(f"s3://key:hush@{bucket}/secret.txt")
    assert str(corpus.sources[0].place) == f"{s3}/secret.txt"
    assert "hush" not in message and "hush" not in json.dumps(corpus.describe())


def test_an_object_that_changes_while_it_is_read_is_noticed(s3):
    uri = upload(f"{s3}/changed.txt", b"a\nb\n")
    corpus = open_corpus(uri)
    upload(uri, b"a\nc\n")
    with pytest.raises(UserError, match="changed.txt has changed since it was opened"):
        read(corpus)


def test_an_object_that_is_not_there_is_named(s3):
    assert f"{s3}/none/c.csv" in refusal_of(f"{s3}/none/c.csv")
    assert f"{s3}/none/*.csv" in refusal_of(f"{s3}/none/*.csv")


def test_a_damaged_object_is_named(s3):
    uri = upload(f"{s3}/damaged/c.txt.gz", gzip.compress(b"a\n" * 1000)[:-9])
    assert f"{uri} is damaged" in refusal_of(uri)
    uri = upload(f"{s3}/damaged/c.parquet", parquet(text=["a", "b"])[:-20])
    assert f"{uri} is damaged" in refusal_of(uri)


@pytest.mark.parametrize("path", ["", "/", "/c.csv", "/folder/", "/*.csv"])
def test_a_bucket_that_does_not_exist_is_named(s3, path):
    assert f"s3://no-such-bucket{path}".rstrip("/") in refusal_of(f"s3://no-such-bucket{path}")


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_said_in_seconds(monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    message = refusal_of("s3://bucket/c.csv")
    assert "s3://bucket/c.csv cannot be read" in message and "connect" in message


# the Hub


class Datasets:
    """What HfFileSystem asks the Hub for, of one repository: org/data."""

    def __init__(self):
        self.files: dict[str, bytes] = {}

    def answer(self, path: str, form: dict) -> tuple[int, object]:
        if path.startswith("/api/datasets/") and not path.startswith("/api/datasets/org/data"):
            return 404, {"error": "Repository not found"}
        if re.fullmatch(r"/api/datasets/org/data(/revision/main)?", path):
            return 200, {"id": "org/data", "sha": "a" * 40}
        if tree := re.fullmatch(r"/api/datasets/org/data/tree/(?:main|a{40})/?(.*)", path):
            return 200, self.tree(unquote(tree.group(1)))
        if path.startswith("/api/datasets/org/data/paths-info/"):
            return 200, [entry for name in form.get("paths", []) for entry in self.entries() if entry["path"] == name]
        if file := re.fullmatch(r"/datasets/org/data/resolve/(?:main|a{40})/(.+)", path):
            return 200, self.files[unquote(file.group(1))]
        return 404, {}

    def entries(self) -> list[dict]:
        folders = {"/".join(name.split("/")[:i]) for name in self.files for i in range(1, name.count("/") + 1)}
        return [{"type": "directory", "path": name, "oid": "b" * 40} for name in sorted(folders)] + [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in sorted(self.files.items())
        ]

    def tree(self, folder: str) -> list[dict]:
        return [e for e in self.entries() if e["path"].startswith(folder and folder + "/")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on loopback; only the network's edge of huggingface_hub is not the real one."""
    from huggingface_hub import HfFileSystem

    datasets = Datasets()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
            status, answer = datasets.answer(self.path.partition("?")[0], form)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            headers = {"X-Repo-Commit": "a" * 40, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            if status == 404:
                headers["X-Error-Code"] = "RepoNotFound" if b"Repository" in content else "EntryNotFound"
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(asked.group(1)), min(int(asked.group(2) or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                status, content = 206, content[first : last + 1]
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    use_endpoint(monkeypatch, tmp_path, f"http://127.0.0.1:{server.server_port}")
    HfFileSystem.clear_instance_cache()
    yield datasets
    HfFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_read_as_a_folder_a_file_and_a_glob(hub):
    hub.files = {
        "data/a.parquet": parquet(id=[1, 2, 3], text=["a", None, "c"]),
        "data/b.parquet": parquet(id=[4], text=["d"]),
        "README.md": b"no",
    }
    assert texts_of("hf://datasets/org/data") == ["a", None, "c", "d"]
    assert texts_of("hf://datasets/org/data/data/b.parquet") == ["d"]
    assert texts_of("hf://datasets/org/data/data/*.parquet") == ["a", None, "c", "d"]
    assert texts_of("hf://datasets/org/data@main/data") == ["a", None, "c", "d"]
    corpus = open_corpus("hf://datasets/org/data/data", id_column="id")
    assert read(corpus).column("id").to_pylist() == [1, 2, 3, 4]
    assert [str(source.place) for source in corpus.sources] == [
        "hf://datasets/org/data/data/a.parquet",
        "hf://datasets/org/data/data/b.parquet",
    ]
    assert corpus.sources[0].sha256 == hashlib.sha256(hub.files["data/a.parquet"]).hexdigest()


def test_compressed_lines_of_the_hub_are_streamed(hub):
    hub.files = {"train.jsonl.gz": gzip.compress(b'{"text": "a"}\n{"text": "b"}\n' * 5000)}
    corpus = open_corpus("hf://datasets/org/data/train.jsonl.gz")
    assert corpus.rows == 10_000
    assert texts_of("hf://datasets/org/data/train.jsonl.gz") == ["a", "b"] * 5000


def test_a_dataset_that_is_not_on_the_hub_is_named(hub):
    assert "hf://datasets/org/none/c.csv" in refusal_of("hf://datasets/org/none/c.csv")
    assert "hf://datasets/org/data/none.csv" in refusal_of("hf://datasets/org/data/none.csv")


def test_a_hub_that_does_not_answer_is_said_in_one_line(tmp_path, monkeypatch):
    from huggingface_hub import HfFileSystem

    use_endpoint(monkeypatch, tmp_path, f"http://127.0.0.1:{closed_port()}")
    HfFileSystem.clear_instance_cache()
    assert "hf://datasets/org/data/c.csv cannot be read" in refusal_of("hf://datasets/org/data/c.csv")
    HfFileSystem.clear_instance_cache()


# the others: what can be shown without a server


def test_a_scheme_nobody_knows_is_refused_with_those_there_are():
    message = refusal_of("ftpx://host/c.csv")
    assert "there is no filesystem ftpx://" in message and "s3, gs, abfs, hdfs, hf" in message


def test_hdfs_without_its_library_says_what_it_needs(monkeypatch):
    try:
        fs.HadoopFileSystem("default", 0)
        pytest.skip("this machine has libhdfs")
    except OSError:
        pass
    message = refusal_of("hdfs://namenode:8020/texts/c.csv")
    assert "hdfs://namenode:8020/texts/c.csv" in message and "libhdfs" in message and "CLASSPATH" in message


@pytest.mark.parametrize(
    ("uri", "path", "shown"),
    [
        ("gs://bucket/a b/c.csv", "bucket/a b/c.csv", "gs://bucket/a b/c.csv"),
        ("abfs://account@container/c.csv", "container/c.csv", "abfs://account@container/c.csv"),
        ("abfs://account:hush@container/c.csv", "container/c.csv", "abfs://account@container/c.csv"),
        (
            "abfss://container@account.dfs.core.windows.net/a/c.csv",
            "container/a/c.csv",
            "abfss://account.blob.core.windows.net/container/a/c.csv",
        ),
        (
            "abfs://account.blob.core.windows.net/container/c.csv",
            "container/c.csv",
            "abfs://account.blob.core.windows.net/container/c.csv",
        ),
    ],
)
def test_a_place_is_shown_as_it_can_be_typed(uri, path, shown):
    place = files.locate(uri)
    assert (place.path, str(place), place.local) == (path, shown, None)
    again = files.locate(str(place))
    assert (again.path, str(again)) == (path, shown)


def test_a_local_path_may_be_a_uri(tmp_path):
    (tmp_path / "a b.txt").write_text("text\n")
    place = files.locate(f"file://{tmp_path}/a b.txt")
    assert (place.local, str(place)) == (tmp_path / "a b.txt", f"{tmp_path}/a b.txt")
    assert texts_of(f"file://{tmp_path}/a b.txt") == ["text"]
