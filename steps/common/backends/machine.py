"""What this machine does: peak of matrix products, memory, processor; the baseline of a benchmark."""

import contextlib
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from steps.common.backends.hardware import why_emulated
from steps.common.backends.timing import timed
from steps.common.backends.torch import DTYPES

# Side of the square matrices whose product gives the machine's peak, and how often it is measured.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}

PEAK_REPEATS = 5


def matrix_flops(model: SentenceTransformer, lengths: np.ndarray) -> float:
    """Operations of the matrix products of texts of these many tokens, a multiplication and an addition counted as two.

    A layer's products are linear in the tokens and its attention is quadratic, so two lengths give the polynomial.
    """
    short, long = 8, 16
    counted = []
    for length in (short, long):
        features = model.preprocess(["a"])
        ids = features["input_ids"][:, :1].repeat(1, length)
        of_tokens = [name for name, value in features.items() if isinstance(value, torch.Tensor) and value.ndim == 2]
        features = {
            **{name: value for name, value in features.items() if not isinstance(value, torch.Tensor)},
            **{name: ids if name == "input_ids" else torch.zeros_like(ids) for name in of_tokens},
            "attention_mask": torch.ones_like(ids),
        }
        # The products of fused attention are not counted.
        with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(features)
        counted.append(counter.get_total_flops())
    quadratic = (counted[1] / long - counted[0] / short) / (long - short)
    linear = counted[0] / short - quadratic * short
    return float(linear * lengths.sum() + quadratic * (lengths.astype(np.float64) ** 2).sum())


def matrix_peak(precision: str, device: str) -> float | None:
    """Operations a second of one large matrix product here, the best of a few; None where it cannot be measured.

    None also where the precision is emulated, since that takes minutes. int8 (on a CPU) by OpenVINO, others by torch.
    """
    side = PEAK_SIDE[device.partition(":")[0]]
    if (device == "cpu" and precision == "fp16") or why_emulated(precision, device):
        product = None
    elif precision == "int8":
        product = _int8_product(side) if device == "cpu" else None
    else:
        product = _torch_product(side, DTYPES[precision], device)
    if product is None:
        return None
    product()
    best = min(timed(product) for _ in range(PEAK_REPEATS))
    return 2 * side**3 / best


def _torch_product(side: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    matrix = torch.randn(side, side).to(device=device, dtype=dtype)

    def product() -> None:
        found = matrix @ matrix
        # Reading one number waits for the device.
        found[0, 0].item()

    return product


def _int8_product(side: int) -> Callable[[], object] | None:
    """As in an int8 model: activations quantised on the way in, weights constant."""
    try:
        import openvino as ov
        from openvino import opset13 as ops

        from steps.common.backends.openvino import core
    except ImportError:
        return None
    random = np.random.default_rng(0)
    given = ops.parameter([side, side], np.float32)
    low, high = np.float32(-1), np.float32(1)
    levels = {"input_low": low, "input_high": high, "output_low": low, "output_high": high, "levels": 256}
    quantized = ops.fake_quantize(given, **levels)
    weights = ops.constant(random.integers(-127, 128, (side, side), dtype=np.int8))
    scaled = ops.multiply(ops.convert(weights, np.float32), ops.constant(np.float32(1 / 127)))
    # The output is quantised too, as between two layers: 4 bytes a number would be measured with it otherwise.
    result = ops.fake_quantize(ops.matmul(quantized, scaled, False, True), **levels)
    compiled = core().compile_model(
        ov.Model([result], [given]), "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    )
    values = random.random((side, side), dtype=np.float32)
    return lambda: compiled(values)


def rss_mb() -> float:
    """Memory of this process, in MB (10^6 bytes)."""
    return psutil.Process().memory_info().rss / 1e6


def reset_peak() -> bool:
    """Start measuring the peak anew; False where the system cannot (it is Linux's)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def peak_mb() -> float:
    """Most memory since reset_peak, in MB (10^6 bytes)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))


def processor() -> str:
    """The name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
