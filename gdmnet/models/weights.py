"""The realism dial: weights on the line through those of a generator and of its regression twin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def between(
    twin: Mapping[str, Tensor], generator: Mapping[str, Tensor], realism: float
) -> dict[str, Tensor]:
    """theta(T) = theta_twin + T (theta_generator - theta_twin) for every weight.

    Args:
        twin: weights by name.
        generator: weights of the same names and shapes.
        realism: T; 0 is the twin and 1 the generator, exactly.

    Returns:
        New tensors of the same names.
    """
    if realism in (0.0, 1.0):
        return dict(generator if realism else twin)
    return {
        name: torch.lerp(base, generator[name], realism) if base.is_floating_point() else base
        for name, base in twin.items()
    }
