from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gdmnet import codec
from gdmnet.commands import export_model
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.inference import container, load_model
from gdmnet.inference.container import find_inputs

SHAPE = (7, 19, 22)
GRID = Geometry(SHAPE, (3.0, 1.5, 1.25), (-20.5, 7.25, 3.0))


def image(path, models, seed=0):
    write_volume(path, Volume(models.make_ct(SHAPE, seed=seed)[None], GRID))
    return path


def without_network(command):
    """The command in a network namespace of its own, where the machine lets us make one."""
    alone = ["unshare", "--map-root-user", "--net"]
    can = shutil.which("unshare") and not subprocess.run([*alone, "true"], check=False).returncode
    return [*alone, *command] if can else command


def test_the_script_gives_the_models_voxels_offline(tmp_path, models):
    model = models.make_model(tmp_path / "results" / "Dataset999_Phantom", {"0": 0.0, "1": 0.0})
    codec.save(models.make_fingerprint(), model / "fingerprint.json")
    place = tmp_path / "container"
    assert export_model.main(["-m", str(model), "--container", str(place)]) == 0
    assert sorted(path.name for path in place.iterdir()) == [
        "Dockerfile",
        "gdmnet",
        "requirements.txt",
        "results",
        "run.py",
    ]
    recipe = (place / "Dockerfile").read_text()
    assert "USER algorithm" in recipe
    assert f"FROM python:{'.'.join(platform.python_version_tuple()[:2])}-slim\n" in recipe
    needed = (place / "requirements.txt").read_text().split()
    assert any(line.startswith("torch==") for line in needed)
    assert not any(line.startswith(("pytest", "monai")) for line in needed)
    for seed, case in enumerate(("b", "a")):
        image(tmp_path / f"input/images/mri/{case}.mha", models, seed)
    (tmp_path / "input/images/mri/c.mha").write_bytes(b"NDims = 3\n")
    far = Geometry(SHAPE, (9.0, 1.5, 1.25))
    write_volume(tmp_path / "input/images/mri/d.mha", Volume(models.make_ct(SHAPE)[None], far))
    blank = Volume(np.zeros((1, *SHAPE), dtype=np.float32), GRID)
    write_volume(tmp_path / "input/images/mri/e.mha", blank)
    done = subprocess.run(
        without_network(
            [sys.executable, str(place / "run.py"), *map(str, (tmp_path / "input", tmp_path))]
        ),
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr  # of the third and the last case
    assert done.stdout.count("error: c: ") == 1
    unlike = "case d: unlike the training data: spacing along z 9 mm (training 2 to 2)"
    assert done.stdout.count(unlike) == 1
    assert done.stdout.count("error: e: channel 0 is blank: all voxels have the same value") == 1
    translator = load_model(model, device="cpu")
    (made,) = (tmp_path / "images").iterdir()
    assert sorted(path.name for path in made.iterdir()) == ["a.mha", "b.mha", "d.mha"]
    for case in ("a", "b"):
        wanted = tmp_path / f"{case}.mha"
        translator.translate_files(tmp_path / f"input/images/mri/{case}.mha", wanted)
        np.testing.assert_array_equal(
            read_volume(made / f"{case}.mha").array, read_volume(wanted).array
        )


def test_images_are_told_apart_by_folders_and_names(tmp_path, models):
    first = image(tmp_path / "mri-t2/uuid1.mha", models)
    second = image(tmp_path / "mri-t1/uuid2.mha", models)
    mask = image(tmp_path / "body-mask/uuid3.mha", models)
    (case,) = find_inputs(tmp_path, ("T1", "T2"))
    assert case.sources == (second, first)
    assert case.mask == mask
    with pytest.raises(DatasetError, match="a folder for each of T1, PD"):
        find_inputs(tmp_path, ("T1", "PD"))
    image(tmp_path / "mri-t1/uuid1.mha", models)
    with pytest.raises(DatasetError, match=r"not as many images .* \(mri-t1 2, mri-t2 1\)"):
        find_inputs(tmp_path, ("T1", "T2"))
    image(tmp_path / "mri-t2/uuid4.mha", models)
    with pytest.raises(DatasetError, match="uuid1 has no image of the same name"):
        find_inputs(tmp_path, ("T1", "T2"))
    image(tmp_path / "lung-mask/uuid3.mha", models)
    with pytest.raises(DatasetError, match=r"several folders of masks \(body-mask, lung-mask\)"):
        find_inputs(tmp_path, ("T1", "T2"))


def test_a_case_that_fails_for_whatever_reason_ends_no_other(tmp_path, models, monkeypatch, caplog):
    models.make_model(tmp_path / "results")
    for case in "ab":
        image(tmp_path / f"images/mri/{case}.mha", models)
    write = container.write_volume

    def write_b(path, volume, **how):
        if path.stem == "a":
            raise MemoryError("out of memory")
        write(path, volume, **how)

    monkeypatch.setattr(container, "write_volume", write_b)
    assert container.translate_folder(tmp_path / "results", tmp_path, tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").rglob("*.mha")] == ["b.mha"]
    assert "error: a: out of memory" in caplog.text


def test_a_folder_that_is_there_is_kept(tmp_path, models, capsys):
    model = models.make_model(tmp_path / "results" / "Dataset999_Phantom")
    (tmp_path / "container").mkdir()
    assert export_model.main(["-m", str(model), "--container", str(tmp_path / "container")]) == 2
    assert "is there already" in capsys.readouterr().err
