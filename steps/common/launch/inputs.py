"""Open what a user named: a corpus, suites, an output."""

from steps.common.embeddings import verify
from steps.common.launch.paths import output_place
from steps.common.storage.place import Place


def open_output(given: str | None) -> Place | None:
    """The place of the output a user named, found usable; None where none was named.

    Raises:
        UserError: a file, a folder that holds what encode has not written, or one that cannot be written.
    """
    return verify.check_output(output_place(given)) if given else None
