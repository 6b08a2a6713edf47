"""A corpus in a table of Spark, and embeddings in a new one: Spark reads and writes both itself.

A table is read once and its rows have no order. Nothing is appended: a driver that dies leaves files behind that a later
append would take for its own (SPARK-29037), while a new table appears when all of its rows are there.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.common.corpus.conf import EncodedCorpusConf
from steps.common.corpus.readers.format import Format
from steps.common.corpus.rows import Kind, position
from steps.common.corpus.texts import RESERVED, check_conf
from steps.common.embeddings.origin import PREFIX, Origin
from steps.common.embeddings.plan import plan_of
from steps.common.engines.conf import EncodeConf, EngineName
from steps.common.engines.spark import Spark
from steps.common.errors import UserError, first_line
from steps.common.project import PROJECT

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructField

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
        UserError: no such table or column, no row, a column of a type that cannot be used, or a setting that only files have.
    """
    from pyspark.errors import PySparkException

    if conf.id_column is None:
        raise UserError(f"the rows of table {name} have no order, so their embeddings need corpus.id_column=<column>.")
    _check_apart(conf.keep_columns)
    try:
        frame = spark.session.table(name)
        known = frame.schema
    except PySparkException as error:
        raise UserError(
            f"there is no table {name}: {first_line(error)}. Give corpus=table:catalog.schema.name."
        ) from None
    texts = [column.name for column in conf.text_columns]
    fields = {
        column.name: known[position(f"table {name}", known.names, column)]
        for column in conf.text_columns + conf.value_columns
    }
    kind = fields[texts[0]].dataType.simpleString()
    if conf.template is None and kind != "string":
        raise UserError(
            f"column {texts[0]!r} of table {name} is {kind}, expected string. corpus.template='{{{texts[0]}}}' writes any value as text."
        )
    kind = fields[conf.id_column].dataType.simpleString()
    if kind not in IDS:
        raise UserError(
            f"column {conf.id_column!r} of table {name} is {kind}; an id is one of {', '.join(IDS)}. Cast it in a view."
        )
    for column in conf.keep_columns:
        _check_passed(name, fields[column])
    frame = _select(frame, texts, conf)
    try:
        is_empty = frame.isEmpty()
    except PySparkException as error:
        raise UserError(f"table {name} cannot be read: {first_line(error)}.") from None
    if is_empty:
        raise UserError(f"table {name} is empty: expected at least one row.")
    return Table(name, find_version(spark, name), frame, list(conf.keep_columns))


def _check_apart(kept: Sequence[str]) -> None:
    """Raises UserError for columns that Spark, for which Text and text are one name, cannot tell from each other or ours."""
    ours = dict.fromkeys(RESERVED)
    for name in kept:
        if name.lower() in ours:
            raise UserError(
                f"corpus.keep_columns names {name!r}, which Spark cannot tell from {ours[name.lower()] or name.lower()!r}. Rename the column in a view, or leave it out."
            )
        ours[name.lower()] = name


def _check_passed(table: str, field: "StructField") -> None:
    """Raises UserError for a column that Spark cannot pass through Python."""
    from pyspark.errors import PySparkException
    from pyspark.sql.pandas.types import to_arrow_type

    try:
        to_arrow_type(field.dataType, timezone="UTC")
    except PySparkException:
        raise UserError(
            f"column {field.name!r} of table {table} is {field.dataType.simpleString()}, which Spark does not give to Python. Cast it in a view, or leave it out of corpus.keep_columns."
        ) from None


def _select(frame: "DataFrame", texts: list[str], conf: EncodedCorpusConf) -> "DataFrame":
    """The columns that are read: texts first, as strings, then the id, then those that are kept."""
    from pyspark.sql import functions as F

    def find(name: str) -> "Column":
        # By its number: a name may hold anything, and another may differ from it in its case alone.
        return F.col(f"c{frame.columns.index(name)}")

    columns = [find(name).cast("string").alias(f"__text{i}__") for i, name in enumerate(texts)]
    columns += [find(str(conf.id_column)).alias("id"), *(find(name).alias(name) for name in conf.keep_columns)]
    return frame.toDF(*(f"c{number}" for number in range(len(frame.columns)))).select(*columns)


def check_new(spark: Spark, name: str) -> None:
    """Raises UserError for a table that is there already."""
    from pyspark.errors import PySparkException

    try:
        is_there = spark.session.catalog.tableExists(name)
    except PySparkException as error:
        raise UserError(f"output=table:{name} cannot be written: {first_line(error)}.") from None
    if is_there:
        raise UserError(
            f"table {name} already exists. encode writes only new tables, so that no rows of a failed job remain. Give another name, or drop it: DROP TABLE {name}, or DROP VIEW {name}"
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
        spark.session.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ({facts})")
    except PySparkException as error:
        logger.warning("table %s does not say what made it: %s", name, first_line(error))


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def find_version(spark: Spark, name: str) -> str | None:
    """The version of a table of Delta, or the snapshot of one of Iceberg; None of another."""
    for query in (
        f"DESCRIBE HISTORY {name} LIMIT 1",
        f"SELECT snapshot_id FROM {name}.snapshots ORDER BY committed_at DESC LIMIT 1",
    ):
        with contextlib.suppress(Exception):
            return str(spark.session.sql(query).collect()[0][0])
    return None
