"""Open what a user named: a corpus, suites, an output."""

from collections.abc import Sequence

from omegaconf import DictConfig

from steps.common.errors import UserError
from steps.common.launch.paths import corpus_place, local_path, output_place


def open_corpus(
    path: str,
    format: str,
    text_column: str,
    id_column: str | None,
    template: str | None = None,
    keep_columns: Sequence[str] = (),
    on_bad_row: str = "auto",
    delimiter: str | None = None,
    quoting: str = "csv",
):
    """The corpus.Corpus a user named, found readable; `sample` is the one that ships with the project."""
    from steps.common.corpus import corpus

    where = corpus_place(path)
    return corpus.open_corpus(
        where, format, text_column, id_column, template, keep_columns, on_bad_row, delimiter, quoting
    )


def open_suites(specs: list):
    """The suites that suites.SuiteSpec describe, read and checked.

    Raises:
        UserError: a file or dataset that cannot be used, or two suites of one name.
    """
    opened = [open_suite(spec) for spec in specs]
    for position, suite in enumerate(opened):
        if suite.name in [other.name for other in opened[:position]]:
            raise UserError(f"two suites are named {suite.name!r}; expected different names. Set suites.<suite>.name.")
    return opened


def open_suite(spec):
    """The suite that a suites.SuiteSpec describes: from this machine if it says where, else from the Hub."""
    from steps.common.quality.pairs import read_suite
    from steps.common.quality.retrieval import read_retrieval

    if spec.path is not None:
        path = local_path(spec.path, "suite.path")
    elif spec.hub_id is not None:
        from steps.common.storage import hub

        path, _ = hub.download_split(spec.hub_id, spec.revision, spec.split)
    else:
        raise UserError("suite.path and suite.hub_id are both null; expected a file or a dataset of the Hub.")
    if spec.kind != "retrieval":
        return read_suite(path, spec.name, spec.sentence1, spec.sentence2, spec.score, spec.kind)
    if spec.documents is None:
        raise UserError("suite.documents is null; a suite of kind retrieval needs the file of its documents.")
    documents = local_path(spec.documents, "suite.documents")
    return read_retrieval(path, documents, spec.name, spec.query, spec.relevant, spec.document_id, spec.document)


def open_output(given: str | None):
    """The files.Place of the output a user named, found usable; None where none was named.

    Raises:
        UserError: a file, a folder that holds what encode has not written, or one that cannot be written.
    """
    from steps.common.embeddings import manifest as manifests

    return manifests.check_output(output_place(given)) if given else None


def open_encoded_corpus(corpus: DictConfig):
    """The corpus.Corpus that the node `corpus` of encode's config names."""
    return open_corpus(
        corpus.path,
        corpus.format.name,
        corpus.text_column,
        corpus.id_column,
        corpus.template,
        list(corpus.keep_columns),
        corpus.on_bad_row.name if corpus.on_bad_row is not None else "null",
        corpus.delimiter,
        corpus.quoting.name,
    )
