import torch
from torch import nn

from gdmnet.drifting.numbers import NumbersModule, on_device


class Counter(NumbersModule):
    seen = 0
    share = 0.5
    _private = 3  # as __firstlineno__, which Python 3.13 gives every class

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(2))


def test_numbers_are_saved_and_loaded_exactly_beside_the_buffers():
    module = nn.ModuleDict({"inner": Counter()})
    module["inner"].seen, module["inner"].share = 2**40 + 1, 1 / 3
    state = module.state_dict()
    assert sorted(state) == ["inner.rows", "inner.seen", "inner.share"]
    other = nn.ModuleDict({"inner": Counter()})
    other.load_state_dict(state)
    assert (other["inner"].seen, other["inner"].share) == (2**40 + 1, 1 / 3)
    assert isinstance(other["inner"].seen, int)


def test_states_of_buffers_are_taken_too():
    counter = Counter()
    counter.load_state_dict(
        {"rows": torch.ones(2), "seen": torch.tensor(7), "share": torch.tensor(0.25)}
    )
    assert (counter.seen, counter.share) == (7, 0.25)


def test_a_missing_or_unknown_number_is_named():
    state = Counter().state_dict()
    found = Counter().load_state_dict({"rows": state["rows"], "more": state["seen"]}, strict=False)
    assert sorted(found.missing_keys) == ["seen", "share"]
    assert found.unexpected_keys == ["more"]


def test_a_cpu_keeps_its_tensors():
    values = torch.arange(3)
    assert on_device(values, torch.device("cpu")) is values
