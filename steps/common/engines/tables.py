"""A corpus in a table of Spark, and embeddings in a new one: Spark reads and writes both itself.

A table is read once and its rows have no order. Nothing is appended: a driver that dies leaves files behind that a later
append would take for its own (SPARK-29037), while a new table appears when all of its rows are there.
"""

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.common.corpus.conf import EncodedCorpusConf
from steps.common.corpus.readers.format import Format
from steps.common.corpus.rows import Kind, missing
from steps.common.corpus.texts import check_conf
from steps.common.embeddings.origin import PREFIX, Origin
from steps.common.embeddings.plan import plan_of
from steps.common.engines.conf import EncodeConf, EngineName
from steps.common.engines.spark import Spark
from steps.common.errors import UserError, first_line
from steps.common.project import PROJECT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

logger = logging.getLogger("steps")

# How a table is named where a path could stand.
SCHEME = "table:"

# Types of ids, as Spark writes them.
IDS = ("string", "tinyint", "smallint", "int", "bigint")

# What may be stored of an embedding: Spark has a type for these.
ELEMENTS = ("float32", "binary")


class TableFormat(Format):
    """What check_conf has to know of a table."""

    name = "table"
    endings = ()
    kind = Kind.columns


@dataclass(frozen=True)
class Table:
    """A table to embed: the columns of its texts, as strings, its ids and what goes with them."""

    name: str
    # Of Delta the version, of Iceberg the snapshot; None where the format has none.
    version: str | None
    frame: "DataFrame"
    kept: list[str]

    def describe(self) -> dict[str, Any]:
        """What a result records of it."""
        columns = {field.name: field.dataType.simpleString() for field in self.frame.schema}
        return {"format": "table", "source": self.name, "version": self.version, "columns": columns}


@dataclass(frozen=True)
class OpenedTable:
    """The table that is read, the name of the one to be made, and the plan as far as it is known without the model."""

    table: Table
    output: str
    plan: dict[str, Any]
    spark: Spark


def table_name(given: str | None) -> str | None:
    """The name behind table:, None for a path."""
    return given.removeprefix(SCHEME) if given and given.startswith(SCHEME) else None


def open_tables(conf: EncodeConf, config: dict[str, Any]) -> OpenedTable:
    """Find the table and see that the other is new; `config`: the same as plain values.

    Raises UserError where one cannot be used, and for a path beside a table.
    """
    source, target = table_name(conf.corpus.path), table_name(conf.output)
    if conf.engine.name != EngineName.spark or source is None or target is None:
        raise UserError(
            f"tables are read and written by Spark, from one into another: expected engine=spark corpus=table:<name> output=table:<name>, found engine={conf.engine.name} corpus={conf.corpus.path} output={conf.output}."
        )
    if conf.reuse is not None:
        raise UserError(f"reuse={conf.reuse} is for an output of files; a table is embedded as a whole.")
    check_table_options(conf.embedding.dtype, conf.output_format)
    check_conf(conf.corpus, TableFormat(), f"table {source}", {})
    with contextlib.ExitStack() as stack:
        spark = stack.enter_context(Spark(conf.engine))
        table = open_table(spark, source, conf.corpus)
        check_new(spark, target)
        # Open until the step has ended.
        stack.pop_all()
    return OpenedTable(table, target, plan_of(config, table.describe(), PROJECT / "steps"), spark)


def open_table(spark: Spark, name: str, conf: EncodedCorpusConf) -> Table:
    """Find a table and check its columns.

    Raises:
        UserError: no such table or column, a column of a type that cannot be used, or a setting that only files have.
    """
    from pyspark.errors import PySparkException

    try:
        frame = spark.session.table(name)
        types = {field.name: field.dataType for field in frame.schema}
    except PySparkException as error:
        raise UserError(
            f"there is no table {name}: {first_line(error)}. Give corpus=table:catalog.schema.name."
        ) from None
    if conf.id_column is None:
        raise UserError(f"the rows of table {name} have no order, so their embeddings need corpus.id_column=<column>.")
    texts = [column.name for column in conf.text_columns]
    for column in [*texts, conf.id_column, *conf.keep_columns]:
        if column not in types:
            raise missing(f"table {name}", list(types), column)
    kind = types[texts[0]].simpleString()
    if conf.template is None and kind != "string":
        raise UserError(
            f"column {texts[0]!r} of table {name} is {kind}, expected string. corpus.template='{{{texts[0]}}}' writes any value as text."
        )
    if types[conf.id_column].simpleString() not in IDS:
        raise UserError(
            f"column {conf.id_column!r} of table {name} is {types[conf.id_column].simpleString()}; an id is one of {', '.join(IDS)}."
        )
    return Table(name, find_version(spark, name), _select(frame, texts, conf), list(conf.keep_columns))


def _select(frame: "DataFrame", texts: list[str], conf: EncodedCorpusConf) -> "DataFrame":
    """The columns that are read: texts first, as strings, then the id, then those that are kept, numbered."""
    from pyspark.sql import functions as F

    quoted = [f"`{name.replace('`', '``')}`" for name in [*texts, str(conf.id_column), *conf.keep_columns]]
    columns = [F.col(name).cast("string") if i < len(texts) else F.col(name) for i, name in enumerate(quoted)]
    names = [*(f"text{i}" for i in range(len(texts))), "id", *conf.keep_columns]
    return frame.select(*(column.alias(name) for column, name in zip(columns, names)))


def check_new(spark: Spark, name: str) -> None:
    """Raises UserError for a table that is there already."""
    from pyspark.errors import PySparkException

    try:
        is_there = spark.session.catalog.tableExists(name)
    except PySparkException as error:
        raise UserError(f"output=table:{name} cannot be written: {first_line(error)}.") from None
    if is_there:
        raise UserError(
            f"table {name} is there already, and encode appends to none: rows of a job that failed could stay in it. Give a new name, or drop it: DROP TABLE {name}"
        )


def check_table_options(dtype: str, output_format: str) -> None:
    """Raises UserError for what a table of Spark cannot hold."""
    if output_format != "parquet":
        raise UserError(f"output_format={output_format} is for files; Spark writes a table in its own format.")
    if dtype not in ELEMENTS:
        why = "its ranges come from texts taken evenly from files" if dtype == "int8" else "Spark has no such type"
        raise UserError(
            f"embedding.dtype={dtype} cannot be written to a table: {why}. Take one of {', '.join(ELEMENTS)}."
        )


def note_origin(spark: Spark, name: str, origin: Origin) -> None:
    """Say in the properties of a table what made its embeddings, as the metadata of a part does."""
    from pyspark.errors import PySparkException

    facts = ", ".join(f"{_literal(PREFIX + fact)} = {_literal(value)}" for fact, value in origin.facts().items())
    try:
        spark.session.sql(f"ALTER TABLE {_quoted(name)} SET TBLPROPERTIES ({facts})")
    except PySparkException as error:
        logger.warning("table %s does not say what made it: %s", name, first_line(error))


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quoted(name: str) -> str:
    return ".".join(f"`{part.strip('`')}`" for part in name.split("."))


def find_version(spark: Spark, name: str) -> str | None:
    """The version of a table of Delta, or the snapshot of one of Iceberg; None of another."""
    quoted = _quoted(name)
    for query in (
        f"DESCRIBE HISTORY {quoted} LIMIT 1",
        f"SELECT snapshot_id FROM {quoted}.snapshots ORDER BY committed_at DESC LIMIT 1",
    ):
        with contextlib.suppress(Exception):
            return str(spark.session.sql(query).collect()[0][0])
    return None
