from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dicoms import write_series

from gdmnet.commands import predict as command
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_geometry, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.inference import predict


class Clock:
    """Time that passes only while the watcher sleeps, and what happens meanwhile."""

    def __init__(self, *events):
        self.now, self.events = 0.0, list(events)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if not self.events:
            raise KeyboardInterrupt
        event = self.events.pop(0)
        if event is not None:
            event()


def watched(monkeypatch, folder, clock, take):
    monkeypatch.setattr(predict, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        predict.watch(folder, take)


def test_a_delivery_is_taken_when_it_is_quiet_and_again_when_it_has_changed(tmp_path, monkeypatch):
    place, calls = tmp_path / "anna", []
    place.mkdir()

    def slice_arrives(number):
        return lambda: (place / f"{number}.dcm").write_bytes(b"x" * number)

    clock = Clock(slice_arrives(1), None, slice_arrives(2), *[None] * 6)
    clock.events += [slice_arrives(3), *[None] * 7]
    watched(monkeypatch, tmp_path, clock, lambda path: calls.append((path.name, clock.now)))
    assert calls == [("anna", 45.0), ("anna", 80.0)]  # half a minute after 15 s and after 50 s


def test_what_cannot_be_predicted_stops_nothing(tmp_path, monkeypatch, caplog):
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.dcm").touch()
    taken = []

    def take(path):
        taken.append(path.name)
        if path.name == "bad":
            raise DatasetError("bad: no series")

    watched(monkeypatch, tmp_path, Clock(*[None] * 20), take)
    assert taken == ["bad", "good"]
    assert [record.getMessage() for record in caplog.records] == ["error: bad: no series"]


def test_a_delivery_that_is_moved_meanwhile_stops_nothing(tmp_path, monkeypatch):
    for name in ("gone", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.dcm").touch()
    every, taken = Path.rglob, []

    def rglob(path, pattern):
        if path.name == "gone":
            raise FileNotFoundError(path)
        return every(path, pattern)

    monkeypatch.setattr(Path, "rglob", rglob)
    watched(monkeypatch, tmp_path, Clock(*[None] * 8), lambda path: taken.append(path.name))
    assert taken == ["here"]


def test_a_watched_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: cannot be read"):
        predict.watch(tmp_path / "nowhere", print)


def test_a_series_is_not_taken_half_with_the_folders_own_files(
    tmp_path, models, monkeypatch, capsys
):
    model = models.make_model(tmp_path)
    write_series(tmp_path / "ward", models.make_ct((9, 19, 22)), Modality="CT")
    (tmp_path / "in/anna").mkdir(parents=True)
    (tmp_path / "in/notes.txt").write_text("quiet from the beginning")
    slices = sorted((tmp_path / "ward").iterdir())
    arrivals = [lambda path=path: shutil.copy(path, tmp_path / "in/anna") for path in slices]
    monkeypatch.setattr(predict, "time", Clock(*arrivals, *[None] * 9))
    arguments = ["--watch", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert command.main([*arguments, "--device", "cpu", "-m", str(model)]) == 130
    (_, said) = capsys.readouterr().out.splitlines()
    assert said.startswith("anna: case_")
    (prediction,) = (tmp_path / "out").glob("*.nii.gz")
    assert read_geometry(prediction).shape == (9, 19, 22)


def test_the_command_predicts_what_arrives_and_nothing_twice(tmp_path, models, monkeypatch, capsys):
    model = models.make_model(tmp_path)
    (tmp_path / "in").mkdir()
    grid = Geometry((7, 19, 22), (3.0, 1.5, 1.25))
    write_volume(
        tmp_path / "ward" / "a_0000.nii.gz", Volume(models.make_ct(grid.shape)[None], grid)
    )
    arrival = lambda: shutil.copytree(tmp_path / "ward", tmp_path / "in/ward")  # noqa: E731
    for said in ("ward: a predicted", None):
        monkeypatch.setattr(predict, "time", Clock(arrival if said else None, *[None] * 8))
        arguments = ["--watch", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
        assert command.main([*arguments, "--device", "cpu", "-m", str(model)]) == 130
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"watching {tmp_path / 'in'}", *([said] if said else [])]
    assert (tmp_path / "out/a.nii.gz").is_file()
    assert command.main([*arguments, "--overwrite", "-m", str(model)]) == 2
