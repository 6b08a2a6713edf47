"""The formats of corpus files, by their endings."""

from steps.common.errors import UserError
from steps.common.storage.place import Place

# File name ending -> format.
FORMATS = {
    ".txt": "text", ".text": "text", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".arrows": "arrow", ".orc": "orc",
}  # fmt: skip

# Ending after the format's -> how the file is compressed. The other formats compress inside.
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}

LINE_FORMATS = ("text", "csv", "tsv", "jsonl")

DELIMITERS = {"csv": ",", "tsv": "\t"}


def split_name(name: str) -> tuple[str, str | None]:
    """The ending that names a file's format, in lower case, and its compression."""
    stem, dot, last = name.lower().rpartition(".")
    compression = COMPRESSIONS.get(dot + last)
    if compression is None:
        return dot + last, None
    _, dot, ending = stem.rpartition(".")
    return dot + ending, compression


def detect_format(place: Place) -> str:
    """The format that a file's ending stands for.

    Raises:
        UserError: an ending that is not known, or a compressed file of a format that compresses inside.
    """
    ending, compression = split_name(place.name)
    if ending not in FORMATS:
        raise UserError(
            f"cannot tell the format of {place} from its ending: expected one of {', '.join(FORMATS)}, and {', '.join(COMPRESSIONS)} after those of lines. "
            "Say it with corpus.format=text, csv, tsv, jsonl, parquet, arrow or orc."
        )
    if compression and FORMATS[ending] not in LINE_FORMATS:
        raise UserError(f"{place}: a file of {FORMATS[ending]} compresses inside. Decompress it first.")
    return FORMATS[ending]
