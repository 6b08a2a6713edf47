"""openvino: the whole model, converted once and compiled for the CPU; int8 is its fastest form."""

from steps.common.backends.kinds import Kind

KIND = Kind("openvino", ("f32", "bf16", "int8"), ("cpu",), "steps.common.backends.openvino")
