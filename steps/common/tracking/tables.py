"""Tables of a run, which MLflow shows beside its metrics."""

from collections.abc import Collection

import mlflow
import pandas as pd


def log_table(table: pd.DataFrame, file: str, numbers: Collection[str]) -> None:
    """Log a table to the active run. MLflow's tables hold numbers and texts only: columns but `numbers` become texts."""
    # By str, since pandas would decode bytes.
    texts = {name: table[name].map(str, na_action="ignore") for name in table.columns if name not in numbers}
    mlflow.log_table(table.assign(**texts), file)
