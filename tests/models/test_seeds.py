import random

import numpy as np
import torch

from gdmnet.models import seeds


def test_the_same_numbers_give_the_same_stream():
    assert seeds.numpy_rng(1, 2, 3).random() == seeds.numpy_rng(1, 2, 3).random()
    first = seeds.reseed(torch.Generator(), 1, 2, 3).initial_seed()
    assert first == seeds.reseed(torch.Generator(), 1, 2, 3).initial_seed()


def test_every_number_and_its_place_matters():
    draws = {seeds.numpy_rng(*n).random() for n in [(1, 2, 3), (3, 2, 1), (1, 2, 4), (-1, 2, 3)]}
    assert len(draws) == 4


def test_the_global_generators_are_seeded_inside_and_untouched_outside():
    def inside():
        with seeds.seeded_globals(np.random.default_rng(5)):
            return random.random(), np.random.random()  # noqa: NPY002

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = inside()
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert inside() == first


def test_the_global_generators_come_back_after_an_error():
    random.seed(1)
    state = random.getstate()
    try:
        with seeds.seeded_globals(np.random.default_rng(5)):
            raise KeyError
    except KeyError:
        pass
    assert random.getstate() == state
