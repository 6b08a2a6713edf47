"""What a served index and a served similarity answer with, as JSON."""

import datetime as dt
import io
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.pyfunc.scoring_server import predictions_to_json

from steps.common.model.answers import arrange, make_signature, rename, servable
from steps.common.model.similarity import SCORE, Similarity
from steps.common.search.pairs import score_pairs

DAY = dt.datetime(2024, 1, 31, 12)

NAN, INF = float("nan"), float("inf")

KEPT = {
    "text": (pa.array(["a", None]), ["a", None]),
    "large": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "whole": (pa.array([1, None]), [1, None]),
    "number": (pa.array([0.5, None]), [0.5, None]),
    "no number": (pa.array([NAN, -INF]), [None, None]),
    "flag": (pa.array([True, None]), [True, None]),
    "time": (pa.array([DAY, None]), ["2024-01-31T12:00:00", None]),
    "price": (pa.array([Decimal("0.10"), None]), [0.1, None]),
    "span": (pa.array([dt.timedelta(seconds=2), None], pa.duration("ms")), [2000, None]),
    "nested": (pa.array([{"a": [Decimal("0.10")], "b": 1}, None]), [{"a": [0.1], "b": 1}, None]),
    "list": (pa.array([[1, NAN, None, INF], []], pa.list_(pa.float32())), [[1, None, None, None], []]),
    "large list": (pa.array([[NAN, 2], None], pa.large_list(pa.float64())), [[None, 2], None]),
    "fixed list": (pa.array([[NAN, 2], None], pa.list_(pa.float16(), 2)), [[None, 2], None]),
    "tensor": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, NAN], [1, 2]], pa.list_(pa.float32(), 2))
        ),
        [[1, None], [1, 2]],
    ),
    "deep": (
        pa.array([{"a": [{"b": -INF, "c": [[NAN]]}]}, {"a": None}]),
        [{"a": [{"b": None, "c": [[None]]}]}, {"a": None}],
    ),
    "map": (
        pa.array([[("a", NAN), ("b", 1)], None], pa.map_(pa.string(), pa.float64())),
        [[["a", None], ["b", 1]], None],
    ),
    "times": (pa.array([[DAY, None], None]), [["2024-01-31T12:00:00", None], None]),
    "spans": (pa.array([[dt.timedelta(seconds=2)], []], pa.large_list(pa.duration("ms"))), [[2000], []]),
    "nothing": (pa.nulls(2), [None, None]),
}


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def as_json(frame):
    sink = io.StringIO()
    predictions_to_json(frame, sink)
    return json.loads(sink.getvalue(), parse_constant=refuse)["predictions"]


def test_kept_columns_of_any_type_are_answered_as_json():
    rows = as_json(servable(pa.table({name: values for name, (values, _) in KEPT.items()})))
    assert {name: [row[name] for row in rows] for name in KEPT} == {name: wanted for name, (_, wanted) in KEPT.items()}
    few = servable(pa.table({name: values.slice(0, 1) for name, (values, _) in KEPT.items()}))
    assert as_json(few) == rows[:1]
    assert not len(servable(pa.table({name: values.slice(0, 0) for name, (values, _) in KEPT.items()})))
    assert servable(pa.table({"score": [0.5, 1]})).dtypes["score"] == np.float64


def test_a_pair_with_a_null_has_a_null_score_beside_other_pairs(monkeypatch):
    class Embedder:
        def embed(self, texts, prompt_name, *, queries):
            self.vectors = np.ones((len(texts), 2), np.float32)
            assert all(isinstance(text, str) for text in texts)
            return self

    model = Similarity()
    model.embedder = Embedder()
    pairs = pd.DataFrame({"sentence_1": ["a", None, "c"], "sentence_2": ["b", "b", None]})
    scores = as_json(model.predict(None, pairs, {"metric": "dot", "prompt_name": None}))
    assert [row[SCORE] for row in scores] == [2, None, None]
    assert np.isnan(score_pairs(lambda texts: np.ones((len(texts), 2)), ["a"], [None], "dot")).all()


def test_kept_columns_with_the_names_of_an_answer_get_names_of_their_own():
    columns = ["id", "query", "query_", "score", "lang"]
    assert rename(columns) == {"id": "id", "query": "query__", "query_": "query_", "score": "score_", "lang": "lang"}
    assert rename(["x", "x_"], ("x", "y")) == {"x_": "x_", "x": "x__"}
    wanted = ["query", "rank", "id", "score", "query__", "query_", "score_", "lang", "query_truncated"]
    assert arrange(columns) == wanted
    kinds = {"query_": pa.int64()}
    found = make_signature(pa.schema([(name, kinds.get(name, pa.string())) for name in columns]), [])
    assert found.outputs.input_names() == wanted
    assert found.outputs.input_dict()["query_"].type.name == "long"
