"""Text files, a text a line."""

from collections.abc import Iterable, Iterator

from steps.common.corpus.readers.lines import Record


def text_records(lines: Iterable) -> Iterator[Record]:
    for number, line, reason in lines:
        yield number, [None if reason else line.removesuffix("\n").removesuffix("\r")], reason
