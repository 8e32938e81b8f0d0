from __future__ import annotations

import json
import math
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.fakes import needs_extra, write_safetensors

from gdmnet.encoders.networks import StagedNetwork
from gdmnet.encoders.weights import check, read_tensors, take
from gdmnet.errors import CheckpointError

STEM = StagedNetwork(torch.nn.Identity, "stem.weight", (1,), ((1, 1, 1),))
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def saved(folder, content, name="weights.pth", **options):
    torch.save(content, folder / name, **options)
    return folder / name


@pytest.mark.parametrize("container", [(), ("state_dict",), ("network_weights",), ("net", "model")])
@pytest.mark.parametrize("new", [True, False])
def test_tensors_are_found_in_every_container_and_in_old_files(tmp_path, container, new):
    content = TENSORS | {"note": "text"}
    for name in container:
        content = {"epoch": 3, name: content, "optimizer": {"lr": 0.1}}
    found = read_tensors(saved(tmp_path, content, _use_new_zipfile_serialization=new))
    assert found.keys() == TENSORS.keys()
    assert torch.equal(found["a.weight"], TENSORS["a.weight"])


def test_numpy_numbers_beside_the_weights_are_harmless(tmp_path):
    logs = {"dice": [np.float32(0.5), np.float64(0.25), np.int64(3), np.bool_(True)]}
    assert read_tensors(saved(tmp_path, {"state_dict": TENSORS, "logging": logs}))


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.filterwarnings("error")  # a refusal is one line: torch's own warnings stay away
def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in (
        saved(tmp_path, {"state_dict": TENSORS, "callbacks": Evil()}),
        saved(tmp_path, {**TENSORS, "x": Evil()}, "old.pth", _use_new_zipfile_serialization=False),
    ):
        with pytest.raises(CheckpointError, match=f"{file.name}: not read .it holds more"):
            read_tensors(file)
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(), protocol=protocol))
        with pytest.raises(CheckpointError, match=r"plain\.pt"):
            read_tensors(tmp_path / "plain.pt")
    assert not (tmp_path / "executed").exists()


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = saved(tmp_path, TENSORS).read_bytes()
    middle = whole.index(TENSORS["a.weight"].numpy().tobytes()) + 9
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for content in (whole[: len(whole) // 2], b"", b"nonsense", flipped):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.pth"):
            read_tensors(tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="gone"):
        read_tensors(tmp_path / "gone.pth")
    for content in ([1, 2], {"epoch": 3}):
        with pytest.raises(CheckpointError, match="holds"):
            read_tensors(saved(tmp_path, content))


@needs_extra
def test_safetensors_are_read_as_they_were_written(tmp_path):
    tensors = {
        "scalar": torch.tensor(3),
        "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        **TENSORS,
    }
    write_safetensors(tmp_path / "x.safetensors", tensors)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@needs_extra
@pytest.mark.parametrize(
    "change",
    [
        lambda head: head["a.bias"].update(data_offsets=[0, 10_000]),
        lambda head: head["a.bias"].update(data_offsets=[24, 10_000]),
        lambda head: head["a.bias"].update(data_offsets=[-8, 8]),
        lambda head: head["a.bias"].update(shape=[5]),
        lambda head: head["a.bias"].update(dtype="F8"),
        lambda head: head["a.bias"].pop("shape"),
        lambda head: head.update({"a.bias": 3}),
    ],
)
def test_wrong_headers_of_safetensors_are_refused(tmp_path, change):
    file = tmp_path / "x.safetensors"
    write_safetensors(file, TENSORS)
    whole = file.read_bytes()
    n = int.from_bytes(whole[:8], "little")
    head = json.loads(whole[8 : 8 + n])
    change(head)
    text = json.dumps(head).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + n :])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: damaged"):
        read_tensors(file)


@needs_extra
def test_cut_safetensors_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    write_safetensors(file, TENSORS)
    whole = file.read_bytes()
    for content in (b"", whole[:5], whole[:40], whole[:-1], b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors: damaged"):
            read_tensors(file)


def test_the_shortest_prefix_is_the_encoders_and_names_end_at_a_dot():
    half = torch.ones(2, dtype=torch.float16)
    tensors = {
        "decoder.encoder.stem.weight": torch.zeros(2),
        "encoder.stem.weight": half,
        "encoder.block.all_modules.0.weight": torch.zeros(2),
        "encoder.norm.num_batches_tracked": torch.tensor(3),
        "ecosystem.weight": torch.zeros(2),
        "head.weight": torch.zeros(2),
    }
    found = take(tensors, STEM)
    assert found.prefix == "encoder."
    assert list(found.tensors) == ["stem.weight"]
    assert found.tensors["stem.weight"].dtype == torch.float32
    assert found.n_others == 5
    with pytest.raises(CheckpointError, match=r"none of its 1 tensors .*ecosystem"):
        take({"ecosystem.weight": half}, replace(STEM, anchor="system.weight"))


def test_names_are_replaced_and_heads_are_left_out():
    network = replace(STEM, renamed=((".fc1.", ".linear1."),), heads=("norm.", "head_"))
    names = ("stem.weight", "a.fc1.weight", "b.norm.weight", "norm.weight", "head_one.bias")
    found = take({f"module.{name}": torch.ones(1) for name in names}, network)
    assert set(found.tensors) == {"stem.weight", "a.linear1.weight", "b.norm.weight"}
    assert found.n_others == 2


def test_complaints_name_a_few_of_many():
    found = {"weight": torch.ones(1)}
    wanted = {f"layer{n}": torch.ones(1) for n in range(20)}
    with pytest.raises(CheckpointError) as problem:
        check(found, wanted)
    assert "20 missing (layer0, layer1" in str(problem.value)
    assert "and 14 more" in str(problem.value)
    assert "1 unexpected (weight)" in str(problem.value)


@pytest.mark.parametrize("number", [math.nan, -math.inf, 1e30])
def test_numbers_that_no_weight_has_are_refused(number):
    found = {"weight": torch.tensor([1.0, number])}
    with pytest.raises(CheckpointError, match=r"not finite or above 1e\+15: weight"):
        check(found, {"weight": torch.ones(2)})


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, bias=False), torch.nn.ReLU())
        self.last = torch.nn.Conv3d(4, 2, 1)

    def forward(self, x):
        return self.last(self.first(x))


@pytest.mark.filterwarnings("ignore")  # torch would rather have its new format
def test_a_torchscript_archive_gives_its_tensors_and_nothing_else(tmp_path):
    network = Scripted().half()
    torch.jit.script(network).save(str(tmp_path / "model.pt"))
    found = read_tensors(tmp_path / "model.pt")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    place = next(name for name in content if name.endswith("/data.pkl"))
    for damage, words in (
        ({place: pickle.dumps(Evil(), protocol=2)}, "holds more than"),
        ({place: content[place][:-40]}, "damaged"),
        ({place.replace("data.pkl", "data/0"): b"short"}, "damaged"),
    ):
        with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
            for name, value in (content | damage).items():
                archive.writestr(name, value)
        with pytest.raises(CheckpointError, match=words):
            read_tensors(tmp_path / "other.pt")
