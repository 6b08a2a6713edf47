"""The model that carries vectors over to another model's space."""

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from steps.common.errors import UserError
from steps.common.model.find import FoundModel, find_model
from steps.common.model.log import log_bridge

ROTATION = np.array([[0, 1, 0], [-1, 0, 0]], np.float32)


def test_a_logged_bridge_loads_and_carries_vectors_over(store):
    with mlflow.start_run() as run:
        old, new = (
            FoundModel(run.info.run_id, mlflow.create_external_model(name), registered)
            for name, registered in (("old", "sbert/1"), ("new", None))
        )
        info = log_bridge(ROTATION, old, new)
    logged = mlflow.get_logged_model(info.model_id)
    assert logged.name == "bridge"
    assert logged.tags["bridges_from_model_id"] == old.logged.model_id
    assert logged.tags["bridges_to_model_id"] == new.logged.model_id
    assert [logged.tags["bridges_from"], logged.tags["bridges_to"]] == ["sbert/1", "new"]

    bridge = mlflow.pyfunc.load_model(info.model_uri)
    assert [tensor.shape for tensor in (*bridge.metadata.signature.inputs, *bridge.metadata.signature.outputs)] == [
        (-1, 2),
        (-1, 3),
    ]
    found = bridge.predict(np.array([[1, 2], [3, 4]], np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == [[-2, 1, 0], [-4, 3, 0]]
    with pytest.raises(MlflowException):
        bridge.predict(np.zeros((1, 3), np.float32))

    with pytest.raises(
        UserError, match=f"maps vectors of models:/{old.logged.model_id} into the space of .* and embeds no text"
    ):
        find_model(info.model_uri, preceding="log_model", experiment_id=logged.experiment_id)
