from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.drifting.bank import RingBank


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=8), capacity=st.integers(1, 6))
def test_the_ring_holds_the_last_rows(sizes, capacity):
    bank = RingBank(capacity, 2)
    everything = torch.zeros(0, 2)
    for size in sizes:
        rows = torch.arange(size * 2.0).reshape(size, 2) + 100 * len(everything)
        bank.push(rows)
        everything = torch.cat([everything, rows])
    kept = everything[-capacity:] if len(everything) else everything
    assert len(bank) == len(kept)
    held = bank.sample(capacity, rng())
    assert {tuple(row) for row in held.tolist()} == {tuple(row) for row in kept.tolist()}
    assert len(held) == len(kept)


def test_a_sample_has_no_row_twice_and_depends_on_the_generator_alone():
    bank = RingBank(50, 1)
    bank.push(torch.arange(40.0)[:, None])
    first, again, other = (bank.sample(10, rng(seed)) for seed in (1, 1, 2))
    assert len(set(first[:, 0].tolist())) == 10
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_there_is_returned_while_there_is_too_little():
    bank = RingBank(50, 3)
    assert bank.sample(10, rng()).shape == (0, 3)
    bank.push(torch.ones(4, 3))
    assert bank.sample(10, rng()).shape == (4, 3)


def test_a_saved_ring_goes_on_as_if_nothing_happened():
    bank, other = RingBank(5, 1), RingBank(5, 1)
    bank.push(torch.arange(7.0)[:, None])
    other.load_state_dict(bank.state_dict())
    for ring in (bank, other):
        ring.push(torch.tensor([[70.0], [80.0]]))
    assert torch.equal(bank.rows, other.rows)
    assert torch.equal(bank.sample(3, rng()), other.sample(3, rng()))


def test_rows_are_kept_without_graph_in_float32():
    bank = RingBank(4, 2)
    bank.push(torch.ones(3, 2, dtype=torch.bfloat16).requires_grad_(True))
    assert bank.rows.dtype == torch.float32
    assert not bank.sample(2, rng()).requires_grad
