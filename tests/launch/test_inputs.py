"""Paths and URIs a user names: the same to every step, and an output that is not its own corpus."""

from pathlib import Path

import pytest
from helpers.errors import refusal

from steps.common import project as projects
from steps.common.launch import paths
from steps.common.launch.paths import check_apart, corpus_place, existing_output, local_path, open_output, output_path
from steps.common.storage import place as files


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, which is also where the command is typed; with a folder whose name a URI has to quote."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths, "_caller_folder", lambda: [tmp_path])
    (tmp_path / "a b%").mkdir()
    return tmp_path


def spellings(folder: Path) -> list[str]:
    uri = folder.as_uri()
    return [
        str(folder),
        uri,
        uri.replace("file:///", "file:/"),
        uri.replace("file:///", "file://localhost/"),
        uri.upper()[:5] + uri[5:],
    ]


@pytest.mark.parametrize("way", range(5))
def test_a_folder_is_the_same_to_every_step_however_it_is_written(home, way):
    given = spellings(home / "a b%")[way]
    assert files.locate(given).path == str(home / "a b%")
    assert open_output(given).path == str(home / "a b%")
    assert existing_output(given) == str(home / "a b%")
    assert corpus_place(given) == home / "a b%"
    assert local_path(given, "model.path") == home / "a b%"
    assert not files.is_uri(given)


@pytest.mark.parametrize("given", ["~/a b%", "a b%", "./a b%"])
def test_home_and_the_folder_one_types_in_are_the_same_to_every_step(home, given):
    assert open_output(given).path == str(home / "a b%")
    assert Path(existing_output(given)) == home / "a b%"
    assert corpus_place(given) == home / "a b%"


def test_a_user_nobody_knows_is_a_plain_name(home):
    assert output_path("~nobody-of-that-name/x") == home / "~nobody-of-that-name/x"


def test_verify_looks_first_where_encode_writes(home, monkeypatch):
    project = home / "project"
    for folder in (project / "out", home / "out"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(projects, "PROJECT", project)
    assert existing_output("out") == open_output("out").path == str(home / "out")


@pytest.mark.parametrize("given", ["", None])
def test_an_output_of_no_name_is_none(home, given):
    assert open_output(given) is None
    check_apart("sample", given)


@pytest.mark.parametrize("given", ["file://elsewhere/x", "file://x", "file://"])
def test_a_file_uri_of_another_machine_is_refused(home, given):
    for call in (open_output, existing_output, corpus_place):
        assert f"{given} is not a path on this machine; expected file:///" in refusal(call, given)


@pytest.mark.parametrize(
    "given, expected",
    [
        ("dbfs:/a/b", "Type output=/dbfs/a/b"),
        ("dbfs:///a/b", "Type output=/dbfs/a/b"),
        ("runs:/1234/embeddings", "only mlflow writes into a run. Leave output out"),
        ("models:/m/1", "only mlflow writes into a run"),
        ("mlflow-artifacts:/1/2", "only mlflow writes into a run"),
        ("mlflow-artifacts://host/1/2", "only mlflow writes into a run"),
        ("s3:/bucket/x", "has one slash; expected s3://bucket/x, or ./s3:/bucket/x"),
        ("memory://x", "cannot be written: it would be gone with this process"),
        ("https://host/x", "cannot be written: a web server is only read"),
        *((f"{scheme}://", f"names nothing behind {scheme}://") for scheme in ("s3", "gs", "hf")),
    ],
)
def test_an_output_that_would_become_a_local_folder_is_refused(home, given, expected):
    assert expected in refusal(open_output, given)
    assert expected in refusal(check_apart, "sample", given)
    assert [path.name for path in home.iterdir()] == ["a b%"]


@pytest.mark.parametrize("given", ["dbfs:/a/b", "s3:/bucket/x"])
def test_verify_refuses_it_in_the_same_words(home, given):
    assert refusal(existing_output, given) == refusal(open_output, given)


@pytest.mark.parametrize("given", ["runs:/1234/embeddings", "mlflow-artifacts:/1/2", "s3://bucket/x"])
def test_verify_takes_what_a_run_or_a_store_holds(home, given):
    assert existing_output(given) == given


@pytest.mark.parametrize(
    "given, expected",
    [
        ("dbfs:/a", "=/dbfs/a"),
        ("runs:/1/a b", "mlflow artifacts download -u 'runs:/1/a b'"),
        ("gs:/bucket", "expected gs://bucket"),
    ],
)
def test_a_corpus_a_suite_or_a_model_of_another_scheme_says_what_to_type(home, given, expected):
    assert expected in refusal(corpus_place, given)
    for key in ("suite.path", "model.path"):
        assert expected in refusal(local_path, given, key)


# an output and its corpus


@pytest.fixture
def texts(home):
    folder = home / "texts"
    (folder / "lang=en").mkdir(parents=True)
    (folder / "lang=en" / "a.csv").write_text("text\na\n")
    (home / "link").symlink_to(folder)
    (home / "elsewhere").mkdir()
    (folder / "linked").symlink_to(home / "elsewhere")
    return home


@pytest.mark.parametrize(
    "corpus, output",
    [
        ("texts", "texts/out"),
        ("texts", "texts/lang=en/deep/out"),
        ("texts", "elsewhere/../texts/out"),
        ("texts", "link/out"),
        ("link", "texts/out"),
        ("texts", "elsewhere/out"),
        ("texts/", "file://{home}/texts/out"),
        ("file://{home}/texts", "texts/out"),
        ("texts/**/*", "texts/out"),
        ("texts/*/*.parquet", "texts/out"),
        ("texts/**", "elsewhere/out"),
        ("link/*/p*", "texts/out"),
        ("texts/*/*.json", "texts/out"),
    ],
)
def test_an_output_in_its_corpus_is_refused_before_anything_is_made(texts, corpus, output):
    if "*.parquet" in corpus or "*.json" in corpus or "p*" in corpus:
        (texts / "texts" / "lang=en" / "parquet.parquet").write_text("")
        (texts / "texts" / "lang=en" / "x.json").write_text("")
    given = (corpus.format(home=texts), output.format(home=texts))
    assert "would be read as texts. Give a folder outside of it" in refusal(check_apart, *given)
    assert not list(texts.rglob("out"))


@pytest.mark.parametrize(
    "corpus, output",
    [
        ("texts", "texts"),
        ("texts/lang=en", "texts"),
        ("texts/lang=en/a.csv", "texts"),
        ("texts/lang=en/*.csv", "texts"),
        ("texts/lang=en/*.csv", "texts/lang=en"),
        ("texts/lang=en/a.csv", "link/lang=en"),
    ],
)
def test_a_corpus_in_its_output_is_refused(texts, corpus, output):
    assert f"the corpus {corpus} lies in the output" in refusal(check_apart, corpus, output)


@pytest.mark.parametrize(
    "corpus, output",
    [
        ("texts", "out"),
        ("texts", "texts-2"),
        ("texts", "texts/_out"),
        ("texts", "texts/.out"),
        ("texts/**/*.csv", "texts/out"),
        ("texts/*.parquet", "out"),
        ("texts/lang=*/*.csv", "texts/lang=en/out"),
        ("texts/lang=en/a.csv", "texts/lang=en/out"),
        ("sample", "texts/out"),
    ],
)
def test_an_output_beside_its_corpus_or_left_out_by_it_is_taken(texts, corpus, output):
    if corpus == "texts/*.parquet":
        (texts / "texts" / "a.parquet").write_text("")
    check_apart(corpus, output)


def test_in_a_bucket_an_output_and_its_corpus_are_apart_too(s3):
    for corpus, output in [("a", "a"), ("a", "a/out"), ("a/", "a//out"), ("a/**/*.parquet", "a/out"), ("a/**", "a/b")]:
        files.locate(f"{s3}/apart/a/x.csv").filesystem.create_dir(files.locate(f"{s3}/apart/a").path)
        with files.locate(f"{s3}/apart/a/x.csv").filesystem.open_output_stream(
            files.locate(f"{s3}/apart/a/x.csv").path
        ) as stream:
            stream.write(b"text\na\n")
        message = refusal(check_apart, f"{s3}/apart/{corpus}", f"{s3}/apart/{output}")
        assert "would be read as texts" in message or "lies in the output" in message
    for corpus, output in [("a", "b"), ("a", "a2"), ("a/*.csv", "a/out")]:
        check_apart(f"{s3}/apart/{corpus}", f"{s3}/apart/{output}")
