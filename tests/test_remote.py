"""Corpora in an object store and on a Hub: real servers on loopback, and what is said where nothing answers."""

import pyarrow as pa
from pyarrow import fs

from steps.common.corpus import open_corpus


def upload(uri: str, content: bytes) -> str:
    filesystem, path = fs.FileSystem.from_uri(uri)
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(content)
    return uri


def read(corpus, size=1000):
    return pa.Table.from_batches(corpus.batches(size), corpus.schema)


def test_a_file_of_a_bucket_is_read(s3):
    assert read(open_corpus(upload(f"{s3}/one/c.txt", b"a\nb\n"))).column("text").to_pylist() == ["a", "b"]
