"""torch: the model's own modules on PyTorch, on a CPU or a GPU; several devices have a process each."""

from steps.common.backends.kinds import Kind

KIND = Kind("torch", ("f32", "bf16", "fp16"), ("cpu", "cuda", "mps"), "steps.common.backends.torch")
