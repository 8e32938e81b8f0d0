"""Randomness that is a function of (seed, epoch, step, rank): a resumed run is the unbroken run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_WORDS = 2**64  # SeedSequence takes no negative numbers; a negative seed is its own stream this way


def sequence(*numbers: int) -> np.random.SeedSequence:
    """A seed sequence from whole numbers of any sign, for example (seed, epoch, step, rank)."""
    return np.random.SeedSequence([number % _WORDS for number in numbers])


def numpy_rng(*numbers: int) -> np.random.Generator:
    """A numpy generator that is a function of the numbers."""
    return np.random.default_rng(sequence(*numbers))


def reseed(rng: torch.Generator, *numbers: int) -> torch.Generator:
    """Set a torch generator to a state that is a function of the numbers."""
    state = sequence(*numbers).generate_state(1, np.uint64)
    return rng.manual_seed(int(state[0]) % 2**63)


@contextmanager
def seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """Python's and numpy's global generators, seeded from `rng` inside the block.

    batchgenerators draws from both of them; their states come back afterwards.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(int(rng.integers(2**32)))
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
