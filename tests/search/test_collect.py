"""What an index holds of an output."""

import pyarrow as pa
import pyarrow.parquet as pq
from helpers.corpora import open_corpus
from helpers.outputs import make_manifest
from helpers.parts import WindowBackend, job_of, open_beside, options, output_of

from steps.common.embeddings import pipeline
from steps.common.search.collect import collect
from steps.common.search.index import ROWS


def test_ids_and_kept_columns_that_are_views_are_held_as_plain_ones(tmp_path):
    keys, names = ["a", "b" * 40, "c"], ["x", None, "z" * 40]
    table = {"key": keys, "name": names, "text": ["one", None, "two"]}
    path = tmp_path / "corpus.parquet"
    pq.write_table(
        pa.table(
            {
                name: pa.array(values).cast(pa.string_view() if name != "text" else pa.string())
                for name, values in table.items()
            }
        ),
        path,
    )
    job = job_of(open_corpus(path, id_column="key", keep_columns=["name"]), options())
    result = pipeline.encode_corpus(job, WindowBackend(), output_of(tmp_path / "out"))
    manifest = make_manifest(result.parts, **(result.manifest() | {"plan": {}}))
    assert collect(open_beside(tmp_path / "out"), manifest, tmp_path, keep_text=True).rows == 2
    rows = pa.ipc.open_file(tmp_path / ROWS).read_all().take(pa.array([1, 0]))
    assert rows.to_pydict() == {"id": ["c", "a"], "text": ["two", "one"], "name": ["z" * 40, "x"]}
