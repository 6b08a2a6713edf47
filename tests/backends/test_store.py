"""The check of a backend, and what was converted and kept."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
from helpers.architectures import SIZES, TEXTS, assert_same
from helpers.errors import refusal
from helpers.models import FolderStore, backend_settings

from steps.common.backends.check import PROBES, TOLERANCE, Unsuitable, check_against_torch, relative_errors
from steps.common.backends.convert import products_of_activations
from steps.common.backends.load import load_backend
from steps.common.backends.openvino import core

EXPECTED = np.tile(np.array([3, 4], np.float32), (len(PROBES), 1))


def answering(answers: np.ndarray, alone: np.ndarray | None = None):
    """An encode that gives these vectors for PROBES, and others for a text that comes alone."""
    by_text = dict(zip(PROBES, answers if alone is None else alone, strict=True))
    return lambda texts: answers if len(texts) > 1 else np.stack([by_text[text] for text in texts])


def test_how_far_a_vector_is_off_is_a_share_of_its_length():
    found = np.array([[3, 4], [3, 4.5], [0, 0], [3, np.nan], [np.inf, 4]], np.float32)
    errors = relative_errors(found, EXPECTED[:5])
    np.testing.assert_allclose(errors, [0, 0.1, 1, np.inf, np.inf])


def test_a_vector_of_zeros_is_met_by_zeros_only():
    errors = relative_errors(np.array([[0, 0], [0, 1e-3]], np.float32), np.zeros((2, 2), np.float32))
    assert errors[0] == 0
    assert errors[1] > 1


@pytest.mark.parametrize("precision, tolerance", TOLERANCE.items())
def test_a_backend_is_let_through_within_its_precision(precision, tolerance):
    off = EXPECTED.copy()
    off[4, 0] += 5 * 0.9 * tolerance
    assert check_against_torch(answering(off), EXPECTED, precision) == pytest.approx(0.9 * tolerance, rel=1e-3)
    off[4, 0] = 3 + 5 * 1.1 * tolerance
    with pytest.raises(Unsuitable, match="its embeddings differ from torch's by"):
        check_against_torch(answering(off), EXPECTED, precision)


def test_a_text_that_is_off_when_it_comes_alone_is_found():
    alone = EXPECTED.copy()
    alone[1] = [3, 5]
    with pytest.raises(Unsuitable, match=r"by 0.2 \(relative\); at most 0.001 is allowed"):
        check_against_torch(answering(EXPECTED, alone), EXPECTED, "f32")


def test_embeddings_that_are_not_numbers_are_found():
    broken = EXPECTED.copy()
    broken[6, 1] = np.nan
    with pytest.raises(Unsuitable, match=r"by inf \(relative\)"):
        check_against_torch(answering(broken), EXPECTED, "int8")


def test_a_text_that_torch_has_no_numbers_for_is_not_compared():
    empty = EXPECTED.copy()
    empty[2] = np.nan
    assert check_against_torch(answering(EXPECTED), empty, "f32") == 0


def test_embeddings_of_another_shape_are_found():
    with pytest.raises(Unsuitable, match=r"have shape \(7, 1\), those of torch \(7, 2\)"):
        check_against_torch(answering(EXPECTED[:, :1]), EXPECTED, "f32")


@pytest.fixture
def store_of_another(tiny, tmp_path):
    """A store that holds the conversion of another model with the same shapes."""
    store = FolderStore(tmp_path)
    another, settings = tiny.model("mean", seed=1), backend_settings("openvino", "f32", 32, device="cpu")
    load_backend(settings, another, store=store, calibration=list)
    return store


def test_a_conversion_of_another_model_is_refused(tiny, store_of_another):
    message = refusal(tiny.load, "mean", "openvino", store=store_of_another)
    assert message.startswith("backend=openvino backend.precision=f32 cannot be used: its embeddings differ from")


def test_auto_leaves_out_a_conversion_of_another_model(tiny, store_of_another, said):
    backend = tiny.load("mean", "auto", store=store_of_another)
    assert backend.name == "torch"
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))
    (warning,) = said()
    assert warning.startswith("backend=auto leaves out openvino/f32: its embeddings differ from")


def contents(folder) -> dict:
    """Every file below a folder: when it was written, and what is in it."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def conversions(messages) -> int:
    return sum(message.startswith("converting the model") for message in messages(logging.INFO))


def test_int8_is_calibrated_once(tiny, int8, said):
    before = contents(tiny.store("Dense").folder)
    first, second = int8(), int8()
    assert (first.precision, first.digest) == (second.precision, second.digest)
    assert first.precision == "int8"
    assert contents(tiny.store("Dense").folder) == before
    assert conversions(said) == 0


def test_int8_is_near_the_model_and_not_the_model(tiny, int8):
    errors = relative_errors(int8().encode(TEXTS), tiny.expected("Dense"))
    assert 1e-3 < errors.max() < TOLERANCE["int8"]


def test_int8_gives_the_same_bytes_every_time(int8):
    first = int8().encode(TEXTS)
    assert first.tobytes() == int8().encode(TEXTS).tobytes()


def test_the_products_within_the_attention_are_not_quantised(tiny, int8):
    """OpenVINO makes one operation of a layer's attention; six products of each layer have weights, and Dense."""
    int8()
    tiny.load("Dense", "openvino")
    for name, quantised in (("openvino-f32", 0), ("openvino-int8", 6 * SIZES["num_hidden_layers"] + 1)):
        graph = core().read_model(tiny.store("Dense").folder / name / "model.xml")
        inner = products_of_activations(graph)
        assert len(inner) == SIZES["num_hidden_layers"]
        fed = [
            operation.get_friendly_name()
            for operation in graph.get_ordered_ops()
            if operation.get_type_name() in ("MatMul", "ScaledDotProductAttention")
            and "FakeQuantize" in (port.get_node().get_type_name() for port in operation.input_values())
        ]
        assert len(fed) == quantised
        assert not set(inner) & set(fed)


def test_openvino_computes_attention_without_its_compiler_of_fused_operations(tiny):
    kinds = {
        operation.get_rt_info()["layerType"].astype(str)
        for operation in tiny.load("mean", "openvino")._compiled.get_runtime_model().get_ordered_ops()
    }
    assert "Softmax" in kinds
    assert "Subgraph" not in kinds


def test_calibrating_anew_gives_the_same_model(tiny, int8, tmp_path, said):
    again = int8(FolderStore(tmp_path))
    assert conversions(said) == 1
    assert again.digest == int8().digest
    for name in ("model.xml", "model.bin"):
        kept = tiny.store("Dense").folder / "openvino-int8" / name
        assert (tmp_path / "openvino-int8" / name).read_bytes() == kept.read_bytes()


def test_other_texts_calibrate_int8_again(tiny, int8, tmp_path, said):
    shutil.copytree(tiny.store("Dense").folder, tmp_path, dirs_exist_ok=True)
    again = int8(FolderStore(tmp_path), TEXTS[16:24])
    assert conversions(said) == 1
    assert again.digest != int8().digest


def edit_facts(folder, edit):
    facts = json.loads((folder / "facts.json").read_text())
    edit(facts)
    (folder / "facts.json").write_text(json.dumps(facts))


DAMAGES = {
    "a byte of the weights": lambda folder: flip_last_byte(folder / "model.bin"),
    "half of the weights": lambda folder: os.truncate(folder / "model.bin", (folder / "model.bin").stat().st_size // 2),
    "no graph": lambda folder: (folder / "model.xml").unlink(),
    "no facts": lambda folder: (folder / "facts.json").unlink(),
    "half of the facts": lambda folder: os.truncate(folder / "facts.json", 40),
    "empty facts": lambda folder: (folder / "facts.json").write_text("{}"),
    "an older OpenVINO": lambda folder: edit_facts(folder, lambda f: f["recipe"]["versions"].update(openvino="2020.1")),
}


def flip_last_byte(path) -> None:
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_kept_model_that_is_damaged_is_made_again(tiny, tmp_path, said, damage):
    digest = tiny.load("mean", "openvino").digest
    shutil.copytree(tiny.store("mean").folder, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "openvino-f32")
    backend = tiny.load("mean", "openvino", store=FolderStore(tmp_path))
    (warning,) = said()
    assert "openvino-f32" in warning
    assert conversions(said) == 1
    assert backend.digest == digest
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))

    tiny.load("mean", "openvino", store=FolderStore(tmp_path))
    assert conversions(said) == 1


def test_a_conversion_lets_no_warning_of_a_library_through(tiny, caplog):
    caplog.set_level(logging.WARNING)
    tiny.load("Dense", "openvino", "f32").close()
    assert [r.getMessage() for r in caplog.records if "transformers" in r.name] == []
