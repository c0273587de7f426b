"""Callers' numbers as tensors."""
import torch


def as_numbers(values):
    """Tensors and arrays as they are; lists in float64, which torch.as_tensor would round to float32."""
    return torch.as_tensor(values) if hasattr(values, "dtype") else torch.as_tensor(values, dtype=torch.double)
