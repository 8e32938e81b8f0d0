import os

import pytest
import torch
from torch import nn

from gdmnet.errors import CheckpointError, OutputError
from gdmnet.models import checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fold_0" / "checkpoint_latest.pt"


def _parts():
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 1, 1))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(1, 1, 4, 4, 4)).sum().backward()
    optimizer.step()
    return {"generator": network, "optimizer": optimizer}


def test_what_is_saved_is_loaded(path):
    first, second = _parts(), _parts()
    checkpoint.save(path, {"epoch": 3, "ema": {}, **checkpoint.capture(first)})
    state = checkpoint.load(path)
    assert state.pop("epoch") == 3
    for name in ("schema", "ema"):
        del state[name]
    checkpoint.restore(second, state, path)
    for ours, theirs in zip(
        first["generator"].parameters(), second["generator"].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
        moments = [p["optimizer"].state[w] for p, w in ((first, ours), (second, theirs))]
        assert torch.equal(moments[0]["exp_avg"], moments[1]["exp_avg"])
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_save_keeps_the_old_checkpoint(path, monkeypatch):
    checkpoint.save(path, {"epoch": 1, "ema": {}})

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"epoch": 2, "ema": {}})
    assert checkpoint.load(path)["epoch"] == 1
    assert list(path.parent.iterdir()) == [path]


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def _full_disk_as_torch_says(*_):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.mark.parametrize("save", [_full_disk, _full_disk_as_torch_says])
def test_a_full_disk_is_an_output_error_and_harms_nothing(path, monkeypatch, save):
    checkpoint.save(path, {"epoch": 1, "ema": {}})
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OutputError, match=r"checkpoint_latest.pt: cannot be written"):
        checkpoint.save(path, {"epoch": 2, "ema": {}})
    assert checkpoint.load(path)["epoch"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_every_kind_of_damage_is_found(path):
    checkpoint.save(path, {"epoch": 1, "ema": {"w": torch.randn(5000)}})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # torch.load alone would take it
    for damaged in (bytes(flipped), whole[: len(whole) // 2], whole[:-1], b"", b"no zip at all"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(path)


def test_a_missing_or_foreign_file_is_named(path, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(path)
    foreign = tmp_path / "foreign.pt"
    for content in ({"state_dict": {}}, {"schema": 99, "ema": {}}, {"schema": 1}, [1, 2]):
        torch.save(content, foreign)
        with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
            checkpoint.load(foreign)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    torch.save({"schema": 1, "ema": nn.Linear(1, 1)}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(tmp_path / "code.pt")


def test_names_must_match(path):
    parts = _parts()
    state = checkpoint.capture(parts)
    with pytest.raises(CheckpointError, match=r"lacks nothing, has in addition module\.critic"):
        checkpoint.restore(parts, {**state, "module.critic": {}}, path)
    del state["optimizer"]
    with pytest.raises(CheckpointError, match="lacks optimizer, has in addition nothing"):
        checkpoint.restore(parts, state, path)


def test_a_state_that_does_not_fit_is_named(path):
    parts = _parts()
    other = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 1, 1))
    state = checkpoint.capture(parts) | {"generator": other.state_dict()}
    with pytest.raises(CheckpointError, match=r"generator does not fit: .*size mismatch"):
        checkpoint.restore(parts, state, path)


def _network(n_sources=1, width=4, depth=2):
    layers = [nn.Conv3d(n_sources, width, 3)]
    layers += [nn.Conv3d(width, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(*layers)


def test_pretrained_weights_are_the_averaged_ones(path):
    donor, network = _network(), _network()
    checkpoint.save(path, {"epoch": 1, "ema": donor.state_dict()})
    checkpoint.load_pretrained(network, path)
    assert torch.equal(network[0].weight, donor[0].weight)


@pytest.mark.parametrize(
    ("donor", "complaint"),
    [
        (_network(n_sources=2), r"1 of another shape .*against \(4, 1, .*same source channels"),
        (_network(width=6), r"shape .*0.weight \(6, 1, 3, 3, 3\) against \(4, 1, 3, 3, 3\)"),
        (_network(depth=1), r"2 missing \(1.weight, 1.bias\), 0 unexpected"),
        (_network(depth=3), r"0 missing .* 2 unexpected \(2.weight, 2.bias\)"),
    ],
)
def test_pretrained_weights_of_another_network_are_refused(path, donor, complaint):
    network = _network()
    before = network[0].weight.detach().clone()
    checkpoint.save(path, {"epoch": 1, "ema": donor.state_dict()})
    with pytest.raises(CheckpointError, match=complaint):
        checkpoint.load_pretrained(network, path)
    assert torch.equal(network[0].weight, before)
