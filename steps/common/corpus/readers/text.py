"""Text files, a text a line."""

from collections.abc import Iterator

from steps.common.corpus.readers.format import Request
from steps.common.corpus.readers.lines import LineFormat, Lines, Record


class Text(LineFormat):
    name, endings, has_columns = "text", (".txt", ".text"), False

    def read_records(self, lines: Lines, request: Request, header: None) -> Iterator[Record]:
        for number, line, reason in lines:
            yield number, [None if reason else line.removesuffix("\n").removesuffix("\r")], reason


FORMAT = Text()
