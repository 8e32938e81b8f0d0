from __future__ import annotations

from pathlib import Path

import pytest
from arguments import roots

from gdmnet.commands import check, info, train
from gdmnet.encoders import ENCODERS
from gdmnet.encoders.catalogue import FAMILIES

FOLD = ["-d", "999", "-c", "3d_fullres"]


def test_an_encoder_is_measured_beside_the_random_one(home, capsys):
    assert check.main([*FOLD, "--encoder", "random", "--seed", "3", *roots(home)]) == 0
    said = capsys.readouterr().out
    assert "channels  16, 32, 32" in said
    for measure in ("effective rank", "blur against noise", "tissue read-out R2"):
        mine, theirs = (
            next(line for line in said.splitlines() if line.startswith(f"{measure}, {whose}"))
            for whose in ("this", "random")
        )
        assert mine.split()[-3:] == theirs.split()[-3:]  # the same weights: the same numbers


def test_self_is_read_and_not_trained(home, capsys):
    assert check.main([*FOLD, "--encoder", "self", *roots(home)]) == 2
    assert "no such encoder" in capsys.readouterr().err
    assert train.main([*FOLD, "--encoder-only", "--encoder-iterations", "3", *roots(home)]) == 0
    capsys.readouterr()
    assert check.main([*FOLD, "--encoder", "self", *roots(home)]) == 0
    assert "encoder   self" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder", "nonsense"], "use one of self, random, nnunet, ctfm"),
        (["--encoder", "ctfm"], "gdmnet downloads nothing"),
        (["--encoder", "ctfm", "--encoder-weights", "gone.pth"], "gone.pth"),
        (["--encoder", "nnunet:gone"], "gone: not a folder"),
    ],
)
def test_what_cannot_be_an_encoder_is_one_line(home, capsys, arguments, words):
    assert check.main([*FOLD, *arguments, *roots(home)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [
        ["999", "--encoder", "random"],
        ["999", "3d_fullres"],
        ["999", "-f", "1"],
        ["999", "3d_fullres", "--encoder", "random", "--register", "998"],
    ],
)
def test_an_encoder_and_a_configuration_go_together(home, words, capsys):
    assert check.main([*words, *roots(home)]) == 2
    assert "--encoder" in capsys.readouterr().err


def test_info_lists_every_encoder_and_finds_its_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("gdmnet_encoders", str(tmp_path))
    (tmp_path / "ctfm").mkdir()
    (tmp_path / "ctfm/model.safetensors").touch()
    assert info.main(["--encoders"]) == 0
    said = capsys.readouterr().out
    blocks = {block.splitlines()[0]: block for block in said.split("\n\n")}
    assert list(blocks) == list(ENCODERS)
    assert f"{Path(tmp_path) / 'ctfm/model.safetensors'} (found)" in blocks["ctfm"]
    assert "$gdmnet_encoders/vista3d/model.pt (not there)" in blocks["vista3d"]
    assert {
        name for name in blocks if "needs    pip install 'gdmnet[encoders]'" in blocks[name]
    } == {name for name in FAMILIES if name not in ("nnssl_resencl", "deepbet")}
    assert all("licence" in block for block in blocks.values())
