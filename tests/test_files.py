"""Files and folders are there whole or not at all, and a folder has one owner."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from gdmnet import files
from gdmnet.errors import BusyError, OutputError

OWN = "import sys, time, pathlib, gdmnet.files as f\nplace = pathlib.Path(sys.argv[1])\n"
HOLD = OWN + "with f.lock(place):\n    print('held', flush=True)\n    time.sleep(60)\n"
WRITE = OWN + (
    "with f.lock(place), f.whole_file(place / 'a') as a, f.whole_folder(place / 'b') as b:\n"
    "    a.write_text('half')\n    (b / 'c').write_text('half')\n"
    "    print('held', flush=True)\n    time.sleep(60)\n"
)
REPLACE = OWN + (
    "with f.lock(place), f.set_aside(place / 'old'):\n"
    "    print('held', flush=True)\n    time.sleep(60)\n"
)


def started(code, place):
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_file_is_there_only_once_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with files.whole_file(path) as aside:
        assert aside.parent == path.parent
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_private_file_is_for_its_owner_alone_whatever_stood_there(tmp_path):
    path = tmp_path / "a.txt"
    for before in ("none", "readable"):
        with files.whole_file(path, private=True) as aside:
            aside.write_text(before)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.whole_file(path) as aside:
        aside.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_cannot_be_written_is_one_line_that_names_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    said = pytest.raises(OutputError, match=r"file.a.txt: cannot be written \(.*\); check")
    with said, files.whole_file(tmp_path / "file" / "a.txt"):
        pass
    said = pytest.raises(OutputError, match=r"b.txt: cannot be written \(the disk may be full\)")
    with said, files.whole_file(tmp_path / "b.txt", also=(RuntimeError,)):
        raise RuntimeError("torch says so of a full disk")


def test_a_planted_link_is_never_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 8)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    aside = tmp_path / f".a.txt.{files._HOST}-{os.getpid()}-00000000.part"
    aside.symlink_to(victim)
    with pytest.raises(OutputError), files.whole_file(tmp_path / "a.txt") as path:
        path.write_text("yours")
    assert victim.read_text() == "mine"


def test_a_folder_takes_the_place_of_another_only_when_asked_and_whole(tmp_path):
    place = tmp_path / "model"
    with files.whole_folder(place) as aside:
        (aside / "a").write_text("first")
    with pytest.raises(OutputError, match="is there already"), files.whole_folder(place):
        pass
    with pytest.raises(ZeroDivisionError), files.whole_folder(place, overwrite=True):
        raise ZeroDivisionError
    assert (place / "a").read_text() == "first"
    with files.whole_folder(place, overwrite=True) as aside:
        (aside / "b").write_text("second")
    assert [p.name for p in place.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_was_set_aside_comes_back_when_its_successor_fails(tmp_path):
    place = tmp_path / "fold_0"
    place.mkdir()
    (place / "final").write_text("weights")
    with pytest.raises(ZeroDivisionError), files.set_aside(place), files.whole_folder(place):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), files.set_aside(place):
        (place / "half").write_text("")
    assert [p.name for p in place.iterdir()] == ["final"]


def test_a_folder_has_one_owner_and_the_next_is_told_who(tmp_path):
    place = tmp_path / "fold_0"
    owner = started(HOLD, place)
    try:
        said = pytest.raises(BusyError, match=f"process {owner.pid} on .* is at work here")
        with said, files.lock(place):
            pass
    finally:
        kill(owner)
    said = pytest.raises(BusyError, match="this very process")
    with files.lock(place), said, files.lock(place):
        pass
    with files.lock(place):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_the_same_by_any_name(tmp_path, monkeypatch):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "out")
    for name in (".", "deep/..", tmp_path / "out"):
        said = pytest.raises(BusyError, match=f"{tmp_path}/out: this very process")
        with files.lock(tmp_path / "out"), said, files.lock(files.Path(name)):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "deep"]


def test_a_file_is_written_where_folders_cannot_be_waited_for(tmp_path, monkeypatch):
    def of_a_share(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", of_a_share)
    with files.whole_file(tmp_path / "b" / "a.txt") as aside:
        aside.write_text("whole")
    assert (tmp_path / "b" / "a.txt").read_text() == "whole"


def test_of_many_processes_exactly_one_gets_the_lock(tmp_path):
    code = OWN + (
        "import gdmnet.errors as e\n"
        "try:\n    with f.lock(place):\n        print('mine', flush=True); time.sleep(2)\n"
        "except e.BusyError:\n    print('busy')\n"
    )
    several = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = [process.communicate()[0].strip() for process in several]
    assert said.count("mine") >= 1
    assert set(said) <= {"mine", "busy"}


def test_leftovers_of_a_killed_process_are_swept_by_the_next_owner(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    writer = started(WRITE, place)
    files.sweep(place)
    assert len(list(place.glob(".*.part"))) == 2  # of a living process: not ours to remove
    kill(writer)
    foreign = place / ".c.00000000-1-00000000.part"
    foreign.write_text("of another machine")
    with files.lock(place):
        assert list(place.iterdir()) == [foreign]


def test_what_a_killed_process_had_set_aside_comes_back(tmp_path):
    (tmp_path / "old").write_text("weights")
    process = started(REPLACE, tmp_path)
    assert not (tmp_path / "old").exists()
    kill(process)
    time.sleep(0.05)
    files.sweep(tmp_path)
    assert (tmp_path / "old").read_text() == "weights"


def test_an_owner_leaves_alone_what_others_may_be_making_beside_it(tmp_path):
    """Their numbers mean nothing in another container of the same name."""
    process = started(WRITE.replace("f.lock(place), ", ""), tmp_path)
    kill(process)
    (tmp_path / "b").mkdir()
    with files.lock(tmp_path / "c"):
        assert {p.name for p in tmp_path.iterdir() if p.name.startswith(".a.")} == set()
        (left,) = (p for p in tmp_path.iterdir() if p.name.startswith(".b."))
    with files.lock(tmp_path / "b"):
        assert not left.exists()


def test_a_signal_while_the_old_folder_is_removed_leaves_nothing_of_it(tmp_path, monkeypatch):
    for name in ("there", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("weights")

    def stopped(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_remove", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.put_in_place(tmp_path / "new", tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "new"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_file_that_fails_while_it_is_read_is_named(tmp_path):
    broken = tmp_path / "scan.mha"
    broken.symlink_to("/proc/self/mem")  # opens, and fails with an I/O error like a bad disk
    with pytest.raises(OSError, match="Input/output error") as problem:
        files.file_sha256(broken)
    assert problem.value.filename == str(broken)
