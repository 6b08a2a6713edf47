"""The real weights: where the result is about quality, and where they come from."""

import functools

import numpy as np
import pytest
from helpers.models import needs_precision
from helpers.steps import last_json


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a backend of all-MiniLM-L6-v2, each once."""
    from helpers.models import FolderStore, backend_settings
    from helpers.project import PROJECT
    from omegaconf import OmegaConf

    from steps.common.backends.load import load_backend
    from steps.common.corpus.sample import calibration_texts
    from steps.common.model.conf import ModelConf
    from steps.common.model.log import load_source
    from steps.common.model.source import find_source

    files = [PROJECT / "conf" / "model" / f"{name}.yaml" for name in ("_base", "all-MiniLM-L6-v2")]
    keys = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)))
    conf = ModelConf(**{name: value for name, value in keys.items() if name != "defaults"})
    model = load_source(find_source(conf), conf)
    store, loaded = FolderStore(tmp_path_factory.mktemp("store")), {}

    def load(name: str, precision: str):
        if (name, precision) not in loaded:
            settings = backend_settings(name, precision, 128)
            loaded[name, precision] = load_backend(settings, model, store=store, calibration=calibration_texts)
        return loaded[name, precision]

    load.model = model
    return load


@pytest.fixture(scope="module")
def torch_backend(load):
    """all-MiniLM-L6-v2 behind the torch backend."""
    return load("torch", "f32")


BACKENDS = [("torch", "f32"), ("openvino", "f32"), ("openvino", "bf16"), ("openvino", "int8")]

# Points of Spearman x 100.
WITHIN = {"f32": 0.05, "bf16": 0.05, "int8": 0.3}


@pytest.mark.slow
@pytest.mark.parametrize("name, precision", BACKENDS)
@pytest.mark.parametrize("file, published", [("stsb-test.jsonl", 82.03), ("sick-r-test.jsonl", 77.58)])
def test_published_scores_are_reproduced(load, shared_data, file, published, name, precision):
    from helpers.suites import read_suite

    from steps.common.quality import scoring

    if name == "openvino":
        needs_precision(precision)
    encode = load(name, precision).encode

    def encode_once(texts):
        # Two thirds of the sentences of SICK-R come again.
        different, places = np.unique(texts, return_inverse=True)
        return encode(different.tolist())[places]

    found = scoring.compute_score(read_suite(shared_data / "sts" / file), encode_once)
    assert found == pytest.approx(published, abs=WITHIN[precision])


@functools.cache
def encode_as_the_library(model, texts: tuple[str, ...]) -> np.ndarray:
    return model.encode(list(texts), show_progress_bar=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, precision, least", [("torch", "f32", 0.999999), ("openvino", "f32", 0.999999), ("openvino", "bf16", 0.9999)]
)
def test_every_row_is_the_librarys_own_to_its_precision(load, shared_data, name, precision, least):
    from steps.common.vectors import pair_cosine

    if name == "openvino":
        needs_precision(precision)
    news = (shared_data / "corpus" / "news.txt").read_text(encoding="utf-8").splitlines()[::10]
    stock = encode_as_the_library(load.model, tuple(news))
    assert pair_cosine(load(name, precision).encode(news).astype(np.float64), stock.astype(np.float64)).min() >= least


@pytest.mark.slow
def test_neighbours_in_the_sample_corpus_are_visibly_right(torch_backend):
    import csv

    from helpers.project import PROJECT

    with (PROJECT / "steps" / "data" / "sample_corpus.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= 200
    embeddings = torch_backend.encode([row["text"] for row in rows])
    cosines = embeddings @ embeddings.T - 2 * np.eye(len(rows))
    topics = np.array([row["topic"] for row in rows])
    assert (topics[cosines.argmax(axis=1)] == topics).mean() > 0.95


def test_the_builtin_suite_is_what_the_readme_says():
    from helpers.project import PROJECT
    from helpers.suites import read_suite

    from steps.common.corpus import readers
    from steps.common.storage import place as files

    path = PROJECT / "steps" / "data" / "suites" / "builtin.jsonl"
    suite = read_suite(path)
    assert suite.name == "builtin"
    assert len(suite.scores) == 180
    assert (suite.scores.min(), suite.scores.max()) == (0, 5)
    kinds = {
        (category, language)
        for batch in readers.read_columns(
            files.locate(path), readers.find_format("jsonl"), ["category", "language"], 1000
        )
        for category, language in zip(*(column.to_pylist() for column in batch))
    }
    assert {category for category, _ in kinds} == {
        "paraphrase",
        "related",
        "unrelated",
        "negation",
        "numbers",
        "entities",
        "word_order",
        "multilingual",
    }
    assert len({language for _, language in kinds}) >= 5


def test_prompts_of_the_config_are_stored_with_the_model(step, tiny_model_folder):
    import mlflow

    code, out, err = step(
        "log_model",
        "model=local",
        f"--model.path={tiny_model_folder}",
        "+model.prompts.passage='the dog: '",
        "model.default_prompt_name=passage",
    )
    assert code == 0, err
    native = mlflow.sentence_transformers.load_model(last_json(out)["model_uri"])
    assert native.prompts["passage"] == "the dog: "
    assert native.default_prompt_name == "passage"


def test_the_hub_id_is_recorded_not_the_folder(step, tiny_model_folder):
    import mlflow

    _, out, _ = step("log_model", "model=local", f"--model.path={tiny_model_folder}", "--model.name", "org/tiny")
    run = last_json(out)
    assert mlflow.get_logged_model(run["model_id"]).tags["hub_id"] == "org/tiny"
    assert (
        mlflow.models.get_model_info(run["model_uri"]).flavors["sentence_transformers"]["source_model_name"]
        == "org/tiny"
    )


def test_token_counts_are_those_of_the_model(tiny_model_folder):
    from sentence_transformers import SentenceTransformer

    from steps.common.backends.torch import token_counter

    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    texts = ["the cat", "", "a red car " * 50]
    assert token_counter(model)(texts).tolist() == [4, 2, 152]
    assert model.encode(texts).shape == (3, 32)
    assert model.preprocess(texts)["input_ids"].shape == (3, 64)
