"""The model that answers OpenAI's embeddings call: its rules on their own, then through a real server."""

import base64
import json

import numpy as np
import pandas as pd
import pytest
from helpers.pages import find_page
from helpers.steps import last_json

from steps.common.model import load as models
from steps.common.validation import openai as openai_api
from steps.common.validation import serving
from steps.common.validation.server import serve

TEXTS = ["the cat is on the house", "a red car"]


@pytest.fixture
def logged(step, tiny_model_folder):
    """The summary of a log_model that logged both models."""
    code, out, err = step("log_model", "model=local", f"model.path={tiny_model_folder}", "serving.embeddings_api=true")
    assert code == 0, err
    return last_json(out)


@pytest.fixture
def source(tiny_model_folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model_folder), device="cpu")


def decode(text: str) -> np.ndarray:
    """As OpenAI's client does."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_run_of_log_model_still_stands_for_the_model_itself(logged, step, tiny_suite, source):
    import mlflow

    run = mlflow.get_run(logged["run_id"])
    assert run.data.tags["model_id"] == logged["model_id"]
    assert f"models:/{run.data.tags['embeddings_api_model_id']}" == logged["embeddings_api"]
    assert len(run.outputs.model_outputs) == 2
    api = mlflow.get_logged_model(run.data.tags["embeddings_api_model_id"])
    assert api.name == "embeddings_api"
    assert api.tags["answers_for_model_id"] == logged["model_id"]

    code, out, err = step("validate", f"run_id={logged['run_id']}", f"suite.path={tiny_suite}", "candidates=[]")
    assert code == 0, err
    assert last_json(out)["model_id"] == logged["model_id"]
    content = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")
    checks = [check["name"] for check in content["checks"] if check["name"].startswith("embeddings_api/")]
    assert checks == [
        f"embeddings_api/{name}"
        for name in ("float", "base64", "single_string", "dimensions", "usage")
        + ("refuses_token_ids", "refuses_no_input", "refuses_dimensions", "refuses_encoding_format")
    ]
    assert mlflow.get_logged_model(logged["model_id"]).tags["validation"] == "passed"
    # No metric of the one strays to the other, in either run.
    assert not mlflow.get_logged_model(api.model_id).metrics
    assert mlflow.get_logged_model(logged["model_id"]).metrics
    code, _, err = step("validate", f"run_id={logged['embeddings_api']}")
    assert code == 1
    assert f"is the embeddings API of models:/{logged['model_id']}" in err

    # The gate of the model fails where this one answers with other vectors, or is a model of another kind.
    client = serving.InProcess(models.scoring_app(mlflow.pyfunc.load_model(logged["embeddings_api"])))
    vectors = source.encode(TEXTS)
    assert all(check.passed for check in openai_api.check_api(client, TEXTS, vectors, 1e-5))
    other = openai_api.check_api(client, TEXTS, vectors[::-1], 1e-5)
    assert [check.name.rpartition("/")[2] for check in other if not check.passed] == [
        "float",
        "base64",
        "single_string",
        "dimensions",
    ]
    client = serving.InProcess(models.scoring_app(mlflow.pyfunc.load_model(f"models:/{logged['model_id']}")))
    plain = openai_api.check_api(client, TEXTS, vectors, 1e-5)
    assert [check.value[:24] for check in plain[:4]] == ["200, but no embeddings: "] * 4 and not plain[4].passed

    # Called from Python, a dict is the same request as a JSON body.
    model = mlflow.pyfunc.load_model(logged["embeddings_api"])
    answer = model.predict({"input": TEXTS, "dimensions": 8})
    expected = unit(source.encode(TEXTS)[:, :8])
    np.testing.assert_allclose([entry["embedding"] for entry in answer["data"]], expected, atol=1e-6)
    frame = model.predict(pd.DataFrame({"input": TEXTS, "encoding_format": ["base64"] * 2}))
    np.testing.assert_allclose([decode(entry["embedding"]) for entry in frame["data"]], source.encode(TEXTS), atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_a_body_of_an_openai_client_is_answered_by_a_real_server(logged, source, shell):
    import mlflow

    folder = mlflow.artifacts.download_artifacts(logged["embeddings_api"])
    expected = source.encode(TEXTS)
    with serve(folder, None) as server:
        assert server.wait(120) is None
        with server.client() as client:

            def ask(**body) -> dict:
                answer = client.post("/invocations", json=body)
                assert answer.status_code == 200, answer.text
                return answer.json()

            answer = ask(input=TEXTS, model="tiny")
            assert answer["object"] == "list"
            assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [
                ("embedding", 0),
                ("embedding", 1),
            ]
            np.testing.assert_allclose([entry["embedding"] for entry in answer["data"]], expected, atol=1e-6)
            tokens = sum(len(source.tokenizer(text)["input_ids"]) for text in TEXTS)
            assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
            assert answer["model"] == "local"

            # What OpenAI's own Python client sends unless told otherwise.
            answer = ask(input=TEXTS[0], model="tiny", encoding_format="base64")
            assert set(answer) == {"object", "data", "model", "usage"}
            (entry,) = answer["data"]
            np.testing.assert_allclose(decode(entry["embedding"]), expected[0], atol=1e-6)

            answer = ask(input=TEXTS, model="tiny", dimensions=8, encoding_format="float", user="me")
            cut = np.array([entry["embedding"] for entry in answer["data"]])
            np.testing.assert_allclose(cut, unit(expected[:, :8]), atol=1e-6)
            answer = ask(input=TEXTS, dimensions=8, encoding_format="base64")
            np.testing.assert_allclose([decode(entry["embedding"]) for entry in answer["data"]], cut, atol=1e-6)

            # A key of null is not given, as clients mean it.
            answer = ask(input=TEXTS, dimensions=None, encoding_format=None, user=None)
            np.testing.assert_allclose([entry["embedding"] for entry in answer["data"]], expected, atol=1e-6)

            # The official client, as the page on serving shows it.
            page, names = find_page("docs/serving-and-registry.md"), {}
            (block,) = [one for one in page.blocks("python") if "openai" in one]
            exec(block.replace("http://127.0.0.1:5002", server.url), names)
            (entry,) = names["answer"].data
            np.testing.assert_allclose(entry.embedding, unit(source.encode(["a red car"])[:, :8])[0], atol=1e-6)
            assert names["answer"].usage.prompt_tokens == len(source.tokenizer("a red car")["input_ids"])

            # A text that is longer than the model reads counts what it reads: 64 tokens here.
            assert ask(input=["cat " * 500])["usage"]["prompt_tokens"] == 64

            for body, reason in (
                ({"input": [5, 6, 7]}, "input holds token ids; expected text"),
                ({"input": [[5, 6], [7]]}, "input holds token ids; expected text"),
                ({"input": []}, "input is an empty list"),
                ({"input": None}, "input holds None"),
                ({"input": True}, "input holds True"),
                ({"input": "a", "dimensions": 0}, "dimensions is 0; expected 1 to 32"),
                ({"input": "a", "dimensions": 33}, "dimensions is 33; expected 1 to 32"),
                ({"input": "a", "dimensions": "8"}, "dimensions is '8'; expected a whole number"),
                ({"input": "a", "dimensions": 8.5}, "dimensions is 8.5; expected a whole number"),
                ({"input": "a", "dimensions": True}, "dimensions is True; expected a whole number"),
                ({"input": "a", "encoding_format": "int8"}, "encoding_format is 'int8'; expected float or base64"),
                ({"model": "tiny"}, "The input must be a JSON dictionary"),
            ):
                answer = client.post("/invocations", json=body)
                assert answer.status_code == 400, (body, answer.text)
                assert reason in answer.json()["message"]
            # The line of the documentation, as it is typed.
            line = next(line for line in page.text.splitlines() if line.startswith("curl") and "5002" in line)
            answer = json.loads(shell("bash", "-c", line.replace("5002", str(server.port))).stdout)
            np.testing.assert_allclose(
                answer["data"][0]["embedding"],
                unit(source.encode(["I love sentence embeddings!"])[:, :8])[0],
                atol=1e-6,
            )
            load = serving.run_load(server, [json.dumps(TEXTS)], clients=4, seconds=1)
            assert load.failures and "400" in load.failures[0]  # the payload of a plain model is not this one's


class Word:
    """A tokenizer of the library's bag-of-words kind."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


class Fake:
    """What count_tokens needs of a SentenceTransformer."""

    default_prompt_name = "query"
    tokenizer = Word()

    def __init__(self, features: dict):
        self.prompts = {"query": "find this: "}
        self.features, self.asked = features, None

    def preprocess(self, texts):
        self.asked = texts
        return self.features


def test_tokens_are_counted_with_the_default_prompt_for_every_kind_of_model():
    import torch

    from steps.common.model.embeddings_api import count_tokens

    masked = Fake({"input_ids": torch.ones(2, 4), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])})
    assert count_tokens(masked, ["a b", "c"]) == 6
    assert masked.asked == ["find this: a b", "find this: c"]
    assert count_tokens(Fake({"input_ids": torch.ones(9), "offsets": torch.tensor([0, 5])}), ["a", "b"]) == 9
    assert count_tokens(Fake({"sentence_embedding": torch.ones(2, 3)}), ["a b", "c"]) == 7


def test_base64_is_little_endian_float32_whatever_the_vector_is():
    from steps.common.model.embeddings_api import to_base64

    for vector in (np.array([1.0, -2.5]), np.array([1.0, -2.5], ">f4"), np.array([1.0, 9, -2.5, 9], np.float32)[::2]):
        assert base64.b64decode(to_base64(vector)) == b"\x00\x00\x80?\x00\x00 \xc0"


def test_rows_that_ask_for_different_things_are_refused():
    from mlflow.exceptions import MlflowException

    from steps.common.model.embeddings_api import read_request

    frame = pd.DataFrame({"input": ["a", ["b", "c"]], "dimensions": [8, 8]})
    assert read_request(frame) == (["a", "b", "c"], {"dimensions": 8})
    with pytest.raises(MlflowException, match="rows that ask for different things"):
        read_request(pd.DataFrame({"input": ["a", "b"], "dimensions": [8, 9]}))
    with pytest.raises(MlflowException, match="expected one request"):
        read_request(pd.DataFrame({"input": []}))
