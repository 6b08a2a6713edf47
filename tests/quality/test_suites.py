"""Suites: what is read from files and from the Hub, and what is refused."""

import json
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.errors import refusal
from helpers.steps import last_json
from helpers.suites import read_suite, spec
from omegaconf import OmegaConf

from docs import make_suites
from steps.common.errors import UserError
from steps.common.launch import paths as inputs
from steps.common.launch.arguments import translate
from steps.common.launch.check import check, check_chain
from steps.common.quality import kinds
from steps.common.quality.pairs import GradedPairs, Pairs
from steps.common.quality.retrieval import Retrieval
from steps.common.quality.suite import Suite
from steps.common.storage import hub

SHIPPED = ["builtin", "paraphrase", "retrieval", "perturbed", "long", "halves"]


def put_suite(path, *rows):
    path.write_text("".join(json.dumps(dict(zip(("sentence1", "sentence2", "score"), row))) + "\n" for row in rows))
    return path


# suites


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_suite_is_read_from_every_format(tmp_path, ending):
    path = tmp_path / f"pairs{ending}"
    rows = [("a, b", 'c "d"', 1.5), ("e", "ü", 4)]
    if ending == ".jsonl":
        put_suite(path, *rows)
    elif ending == ".parquet":
        pq.write_table(pa.table({"sentence1": ["a, b", "e"], "sentence2": ['c "d"', "ü"], "score": [1.5, 4.0]}), path)
    elif ending == ".csv":
        path.write_text('sentence1,sentence2,score\n"a, b","c ""d""",1.5\ne,ü,4\n')
    else:
        path.write_text('sentence1\tsentence2\tscore\na, b\t"c ""d"""\t1.5\ne\tü\t4\n')
    suite = read_suite(path)
    assert (suite.name, suite.path) == ("pairs", path)
    assert (suite.first, suite.second) == (["a, b", "e"], ['c "d"', "ü"])
    np.testing.assert_array_equal(suite.scores, [1.5, 4])


def test_a_suite_takes_the_name_and_columns_it_is_given(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("left,right,gold\na,b,1\nc,d,2\n")
    suite = read_suite(path, name="mine", sentence1="left", sentence2="right", score="gold")
    assert suite.name == "mine"
    assert suite.first == ["a", "c"]


def test_integer_and_decimal_grades_may_be_mixed(tmp_path):
    suite = read_suite(put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", "d", 2.5)))
    np.testing.assert_array_equal(suite.scores, [1, 2.5])


def test_a_missing_column_lists_the_columns_there_are(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("sentence1,sentence2,similarity\na,b,1\n")
    message = refusal(read_suite, path)
    assert "'score'" in message and "'similarity'" in message and "suite.score" in message


def test_a_sentence_that_is_missing_names_its_row(tmp_path):
    assert "row 2" in refusal(read_suite, put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", None, 2)))


@pytest.mark.parametrize("grade", ["high", "", "nan", "inf"])
def test_a_grade_that_is_no_number_names_its_row(tmp_path, grade):
    path = tmp_path / "p.csv"
    path.write_text(f"sentence1,sentence2,score\na,b,1\nc,d,{grade}\n")
    message = refusal(read_suite, path)
    assert "row 2" in message and "'score'" in message


def test_one_pair_is_too_few(tmp_path):
    assert "at least two" in refusal(read_suite, put_suite(tmp_path / "p.jsonl", ("a", "b", 1)))


def test_an_empty_suite_is_refused(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("sentence1,sentence2,score\n")
    assert str(path) in refusal(read_suite, path)


def test_equal_grades_are_refused(tmp_path):
    assert "different grades" in refusal(read_suite, put_suite(tmp_path / "p.jsonl", ("a", "b", 3), ("c", "d", 3)))


def test_a_text_file_is_no_suite(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a\n")
    assert "sentence1, sentence2 and score" in refusal(read_suite, path)


def test_a_suite_that_is_not_there_is_refused_with_its_path(tmp_path):
    assert f"{tmp_path}/none.jsonl" in refusal(read_suite, tmp_path / "none.jsonl")


# paraphrases


def test_paraphrases_are_graded_with_1_and_0(tmp_path):
    path = put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", "d", 0))
    suite = read_suite(path, kind="paraphrase")
    assert (suite.kind, suite.metric) == ("paraphrase", "average_precision")
    np.testing.assert_array_equal(suite.scores, [1, 0])


def test_graded_pairs_are_no_paraphrases(tmp_path):
    path = put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", "d", 4.5))
    with pytest.raises(
        UserError, match=r"row 2: expected 1 \(same meaning\) or 0 in 'score', found 4.5.*suite.kind=sts"
    ):
        read_suite(path, kind="paraphrase")


# retrieval


def put_retrieval(folder, queries, documents="id,text\nd1,one\nd2,two\n3,three\n"):
    (folder / "queries.jsonl").write_text("".join(json.dumps({"query": q, "relevant": r}) + "\n" for q, r in queries))
    (folder / "documents.csv").write_text(documents)
    return folder / "queries.jsonl", folder / "documents.csv"


def read_retrieval(path, documents):
    return read_suite(path, kind="retrieval", documents=documents)


def test_a_query_has_the_documents_of_all_its_rows(tmp_path):
    suite = read_retrieval(*put_retrieval(tmp_path, [("q", "d1 d2"), ("p", "d1"), ("q", "3")]))
    assert suite.queries == ["q", "p"]
    assert suite.relevant == [{"d1", "d2", "3"}, {"d1"}]
    assert suite.documents == {"d1": "one", "d2": "two", "3": "three"}
    assert suite.texts == {"query": ["q", "p"], "document": ["one", "two", "three"]}


def test_ids_may_be_lists_in_parquet(tmp_path):
    _, documents = put_retrieval(tmp_path, [])
    pq.write_table(pa.table({"query": ["q", "p"], "relevant": [["d1", "d2"], ["3"]]}), tmp_path / "q.parquet")
    assert read_retrieval(tmp_path / "q.parquet", documents).relevant == [{"d1", "d2"}, {"3"}]


@pytest.mark.parametrize(
    ("queries", "documents", "expected"),
    [
        ([("q", "d1"), ("p", "d9")], None, "'p' is answered by 'd9', and there is no such id in"),
        ([("q", "d1"), ("p", "")], None, "row 2: expected a query in 'query' and ids of documents"),
        ([("q", "d1")], None, "has 1 query; expected at least two"),
        ([("q", "d1"), ("p", "d1")], "id,text\nd1,one\nd1,two\n", "row 2: the id 'd1' is there twice"),
        ([("q", "d1"), ("p", "d1")], "id,body\nd1,one\n", "has no column 'text'"),
    ],
)
def test_a_retrieval_suite_that_cannot_be_scored_is_one_line(tmp_path, queries, documents, expected):
    paths = put_retrieval(tmp_path, queries, *([documents] if documents else []))
    assert expected in refusal(read_retrieval, *paths)


# samples


def test_a_sample_is_taken_evenly_and_a_small_suite_is_its_own_sample():
    suite = GradedPairs("s", None, [f"a{i}" for i in range(10)], [f"b{i}" for i in range(10)], np.arange(10.0))
    assert suite.sample(10) is suite
    assert suite.sample(4).first == ["a0", "a3", "a6", "a9"]


def test_a_sample_of_a_retrieval_suite_keeps_the_documents_that_answer():
    documents = {f"d{i}": f"text {i}" for i in range(100)}
    suite = Retrieval("s", None, None, ["q", "p"], [frozenset({"d99"}), frozenset({"d5"})], documents)
    sample = suite.sample(3)
    assert sample.queries == ["q", "p"]
    assert {"d99", "d5"} <= set(sample.documents)
    assert len(sample.documents) == 5


# suites by name, by path and from the Hub


def open_suites(*specs) -> list[Suite]:
    return kinds.read_suites(inputs.find_suites(specs))


def test_validate_scores_every_suite_that_ships_unless_others_are_named():
    (config,) = check("validate", translate("validate", []).overrides)
    suites = open_suites(*OmegaConf.to_object(config).scored_suites)
    assert {suite.name: len(suite) for suite in suites} == {
        "builtin": 180,
        "paraphrase": 98,
        "retrieval": 48,
        "perturbed": 1920,
        "long": 360,
        "halves": 240,
    }
    assert len({suite.digest for suite in suites}) == 6
    assert set(SHIPPED) == {suite.name for suite in suites}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["suite=stsb"], ["stsb"]),
        (["--suite", "stsb"], ["stsb"]),
        (["suite.path=pairs.csv", "suite.name=mine"], ["mine"]),
        (["--suite", "[sick-r,long]"], ["long", "sick-r"]),
        (["suites.long.threshold=3"], SHIPPED),
    ],
)
def test_suites_that_are_named_take_the_place_of_those_that_ship(words, expected):
    (config,) = check("validate", translate("validate", words).overrides)
    assert (list(config.suites) or [config.suite.name]) == expected
    # main hands the same words on.
    overrides = list(check("main", translate("main", words).overrides)[0].overrides)
    assert check_chain(overrides)["validate"].suites.keys() == config.suites.keys()


def test_the_suites_made_of_the_sample_corpus_are_what_their_script_makes():
    for name, content in make_suites.make().items():
        assert (make_suites.SUITES / name).read_text(encoding="utf-8") == content


def test_two_suites_of_one_name_are_refused(tmp_path):
    path = put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", "d", 2))
    with pytest.raises(UserError, match="two suites are named 'p'"):
        open_suites(spec(path=str(path)), spec(path=str(path)))


def test_a_suite_of_neither_path_nor_hub_id_is_refused():
    with pytest.raises(UserError, match="suite.path and suite.hub_id are both null"):
        inputs.find_suites([spec()])


def test_a_kind_that_there_is_not_is_refused(step):
    code, _, err = step("validate", "suite.kind=graded")
    assert (code, err) == (
        1,
        "error: suite.kind takes one of sts, paraphrase, retrieval, known_item, index, not graded.\n",
    )


# a kind of one's own


@dataclass(frozen=True)
class SameOrNot(Pairs):
    """Pairs with 1 for the same meaning and 0 for another: the share of them that a cosine of 0.5 tells apart."""

    kind = "same_or_not"
    metric = "accuracy"
    figure = "told apart"
    measure = "an accuracy"
    grades = "1 or 0"
    caption = "Bars are pairs."

    @staticmethod
    def compute_score(units, *labels, axis=-1):
        return ((units > 0.5) == labels[0]).mean(axis=axis)

    def compute_metrics(self, cosines):
        return {"accuracy": float(self.compute_score(cosines, self.scores))}

    def draw(self, axes, units, colours):
        axes.bar(["other", "same"], [(units <= 0.5).sum(), (units > 0.5).sum()], color=colours)


def test_a_new_kind_of_suite_is_one_class_and_its_name(step, tiny_run, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setitem(kinds.KINDS, "same_or_not", f"{__name__}:SameOrNot")
    path = put_suite(tmp_path / "own.jsonl", *[("the cat", "the cat", 1)] * 3, ("a red car", "big river stone", 1))
    path.write_text(path.read_text() + '{"sentence1": "a tree", "sentence2": "a tree", "score": 0}\n')
    words = [f"suite.path={path}", "suite.kind=same_or_not", "suite.threshold=50", "candidates=[]", "latency_calls=2"]
    code, out, err = step("validate", *words)
    assert code == 0, err
    run = mlflow.get_run(last_json(out)["run_id"])
    assert run.data.metrics["quality/own/accuracy"] in (60, 80)
    assert run.data.metrics["quality/own/accuracy_low"] < run.data.metrics["quality/own/accuracy_high"]
    (suite,) = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/validation.json")["suites"]
    assert (suite["kind"], suite["metric"], suite["unit"]) == ("same_or_not", "accuracy", "pairs")
    page = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/report.html")
    assert "own: told apart" in page and "Bars are pairs." in page


@pytest.fixture
def hub_with(monkeypatch, tmp_path):
    """A Hub whose dataset has these files; what was asked of it. Only what the client would fetch is faked."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    def make(*names):
        asked = []

        def snapshot_download(repo_id, **given):
            asked.append((repo_id, given))
            if given["local_files_only"]:
                raise errors.LocalEntryNotFoundError("not in the cache")
            folder = tmp_path / "snapshots" / "0123abcd"
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(
                    pa.table({"sentence1": ["a", "c"], "sentence2": ["b", "d"], "score": [1.0, 2.0]}), folder / name
                )
            folder.mkdir(parents=True, exist_ok=True)
            return str(folder)

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.setattr(hub, "reach", lambda endpoint, works_offline: None)
        return asked

    return make


@pytest.mark.parametrize("name", ["default/test/0000.parquet", "data/test-00000-of-00001.parquet", "test.parquet"])
def test_a_split_of_a_dataset_of_the_hub_is_a_suite(hub_with, name):
    asked = hub_with(name)
    (suite,) = open_suites(spec(hub_id="mteb/stsbenchmark-sts", revision="refs/convert/parquet", name="stsb"))
    assert (suite.name, suite.first) == ("stsb", ["a", "c"])
    repo, given = asked[-1]
    assert (repo, given["repo_type"], given["revision"]) == ("mteb/stsbenchmark-sts", "dataset", "refs/convert/parquet")


def test_a_split_in_no_file_or_in_several_is_refused(hub_with):
    hub_with("default/train/0000.parquet")
    with pytest.raises(UserError, match="has 0 Parquet files of the split 'test'"):
        hub.download_split("org/pairs", None, "test")
    hub_with("default/test/0000.parquet", "default/test/0001.parquet")
    with pytest.raises(UserError, match="has 2 Parquet files of the split 'test'"):
        hub.download_split("org/pairs", None, "test")


def test_a_hub_that_is_switched_off_says_what_works_offline(monkeypatch):
    from huggingface_hub import constants

    # Read when the library was imported, which may have been before this test's environment.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set. Offline, these work: suite=builtin"):
        hub.download_split("mteb/stsbenchmark-sts", "refs/convert/parquet", "test")


def test_a_hub_that_cannot_be_reached_is_asked_once_and_is_one_line(monkeypatch, tmp_path):
    import httpx
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked, send = [], httpx.Client.send
    monkeypatch.setattr(httpx.Client, "send", lambda *given, **more: asked.append(given[1].url) or send(*given, **more))
    message = refusal(hub.download_split, "mteb/stsbenchmark-sts", "refs/convert/parquet", "test")
    assert re.search("cannot be reached.*suite=builtin", message)
    assert len(asked) == 1, asked


@pytest.mark.parametrize(
    "name, content, given, remedy",
    [
        ("s.csv", "sentence1,b,score\nx,y,1\n", {}, "Name the right one, with suite.sentence2=<name>."),
        ("s.jsonl", '{"sentence1": "a", "sentence2": "b"}\n', {}, "Name the right one, with suite.score=<name>."),
        ("s.csv", "sentence1;sentence2;score\nx;y;1\n", {}, "look separated by ';': save the file with commas."),
        ("s.csv", "q,relevant\nx,y\n", {"kind": "retrieval"}, "Name the right one, with suite.query=<name>."),
        ("s.xlsx", "", {}, "Excel files are not read. Save the sheet as CSV (UTF-8)."),
    ],
)
def test_a_file_that_does_not_fit_a_suite_is_answered_with_keys_of_suites_alone(tmp_path, name, content, given, remedy):
    (tmp_path / name).write_text(content)
    (tmp_path / "documents.csv").write_text("id,text\ny,z\n")
    given |= {"documents": str(tmp_path / "documents.csv")} if given else {}
    message = refusal(read_suite, tmp_path / name, **given)
    assert message.endswith(remedy) and "corpus." not in message
