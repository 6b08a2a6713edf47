"""Tables of a run."""

import mlflow
import pandas as pd

from steps.common.tracking.tables import log_table


def test_columns_but_those_of_numbers_become_texts_and_null_stays_null(store):
    table = pd.DataFrame({"score": [0.5, 1.0], "id": [b"\xff", b"b"], "topic": ["sport", None]})
    with mlflow.start_run() as run:
        log_table(table, "pairs.json", ["score"])
    shown = mlflow.load_table("pairs.json", run_ids=[run.info.run_id])
    assert (shown["score"].tolist(), shown["id"].tolist()) == ([0.5, 1.0], [str(b"\xff"), str(b"b")])
    assert shown["topic"].isna().tolist() == [False, True] and shown["topic"][0] == "sport"
