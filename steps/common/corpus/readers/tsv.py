"""TSV: cells between tabs. Most of its writers quote nothing, so a quoted cell has to end in its own line."""

from steps.common.corpus.readers.csv import TAB, DelimitedFormat

FORMAT = DelimitedFormat("tsv", (".tsv", ".tab"), TAB, has_long_cells=False)
