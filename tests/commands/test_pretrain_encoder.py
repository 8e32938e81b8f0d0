from __future__ import annotations

import json

from arguments import roots

from gdmnet.commands import pretrain_encoder, train
from gdmnet.training import pretrain
from gdmnet.training.usefulness import Figure, Report


def folder_of(home):
    return home / "results/Dataset999_Phantom/encoder_self__3d_fullres/fold_0"


def test_the_encoder_is_trained_alone_reported_and_taken_by_gdm_train(home, capsys, monkeypatch):
    asked = ["-d", "999", "-c", "3d_fullres", "--encoder-iterations", "4", *roots(home)]
    assert pretrain_encoder.main(asked) == 0
    said = capsys.readouterr().out
    assert f"encoder: {folder_of(home) / 'encoder.pt'}" in said
    report = json.loads((folder_of(home) / "report.json").read_text())
    assert f"judged on 8 patches of {', '.join(report['cases'])}" in said
    for figure in report["figures"]:
        assert f"{figure['name']}: {figure['value']:.3g}" in said

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(pretrain, "train_autoencoder", fail)
    assert pretrain_encoder.main(asked) == 0
    short = ["--epochs", "1", "--iterations", "1", "--encoder-iterations", "4"]
    assert train.main(["999", "3d_fullres", *short, *roots(home)]) == 0


def test_what_is_not_there_is_one_line(home, capsys):
    for arguments, words in (
        (["-d", "999", "-c", "2d"], "no configuration 2d"),
        (["-d", "998", "-c", "3d_fullres"], "no dataset 998"),
        (["-d", "999", "-c", "3d_fullres", "-f", "9"], "9"),
        (["-d", "999", "-c", "3d_fullres", "--device", "cuda:99"], "CUDA"),
    ):
        assert pretrain_encoder.main([*arguments, *roots(home)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said


def test_good_and_poor_figures_are_told_beside_the_twin():
    report = Report(
        cases=("a", "b"),
        n_patches=8,
        masked_mse={"encoder": 0.5, "zero": 1.0},
        encoder={"effective rank": (5.0, 6.0), "gradient coverage": (1.0,)},
        twin={"effective rank": (7.0, 8.0), "gradient coverage": (0.9,)},
        figures=(Figure("x", 0.5, "at most", 0.8), Figure("y", 0.5, "at least", 0.8)),
        failed=("y",),
    )
    lines = pretrain_encoder.told(report).splitlines()
    assert lines[0] == "judged on 8 patches of a, b"
    assert lines[2].split() == ["map", "0", "map", "1"]
    assert lines[3].split() == ["effective", "rank,", "encoder", "5", "6"]
    assert lines[4].split() == ["effective", "rank,", "random", "twin", "7", "8"]
    assert lines[5].split() == ["gradient", "coverage,", "encoder", "1"]
    assert "masked error: encoder 0.5, zero 1" in lines
    assert lines[-2:] == [
        "good  x: 0.5 (wanted at most 0.8)",
        "poor  y: 0.5 (wanted at least 0.8)",
    ]
