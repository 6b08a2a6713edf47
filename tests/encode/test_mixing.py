"""Where vectors of two models would mix, encode says so."""

import mlflow


def test_a_version_that_needs_every_text_embedded_again_says_so(step, tiny_run, corpus, tmp_path):
    uri = f"models:/{tiny_run['model_id']}"
    version = mlflow.register_model(uri, "tiny", tags={"compatibility": "reindex_required"}).version
    mlflow.MlflowClient().set_registered_model_alias("tiny", "champion", version)
    asked = (f"--corpus={corpus}", f"--output={tmp_path / 'out'}", "backend=torch")
    code, _, err = step("encode", "--run_id=models:/tiny@champion", *asked)
    assert code == 0, err
    assert "vectors of tiny/1 cannot be searched together with those of the previous champion" in err

    mlflow.MlflowClient().set_model_version_tag("tiny", version, "compatibility", "compatible")
    code, _, err = step("encode", "--run_id=models:/tiny@champion", *asked)
    assert code == 0, err
    assert "do not mix" not in err
