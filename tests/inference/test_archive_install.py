import hashlib
import io
import json
import os
import pickle
import zipfile

import pytest
import torch

from gdmnet import files, folders
from gdmnet.errors import BusyError, CheckpointError, GdmnetError, OutputError
from gdmnet.inference.archive import export_model, install_model


@pytest.fixture(scope="module")
def archive(tmp_path_factory, models):
    place = tmp_path_factory.mktemp("sent")
    export_model(models.make_model(place / "results", {"0": 5.0}), place / "model.zip")
    return place / "model.zip"


def read(archive):
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def write(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def relisted(files):
    """With a manifest that agrees with the files: what a malicious sender would do."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
        if name != "manifest.json"
    }
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def with_manifest(files, **changes):
    manifest = {**json.loads(files["manifest.json"]), **changes}
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def refuse(path, results, text):
    with pytest.raises(GdmnetError, match=text) as error:
        install_model(path, results)
    assert "\n" not in str(error.value)
    assert not results.exists() or list(results.iterdir()) == []


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "model.zip")  # reading it would never end
    refuse(tmp_path / "model.zip", tmp_path / "results", "no plain file")


def test_a_model_gets_its_place_and_nothing_else_is_left(archive, tmp_path):
    installed = install_model(archive, tmp_path)
    assert installed.folder == tmp_path / "Dataset501_Test" / "regression__3d_fullres"
    assert installed.namesakes == ()
    assert [path.name for path in tmp_path.iterdir()] == ["Dataset501_Test"]
    there = {p.relative_to(installed.folder).as_posix() for p in installed.folder.rglob("*.*")}
    assert there == set(read(archive))


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/tmp/evil.json",
        "fold_0/../../evil.json",
        "C:\\evil.json",
        "fold_0\\run.json",
        "fold_0/notes.txt",
        "fold_0/",
        "fold_x/run.json",
        "plan.json\n",
    ],
)
def test_a_file_that_is_none_of_a_models_is_refused(archive, tmp_path, name):
    files = relisted({**read(archive), name: b""})
    refuse(write(tmp_path / "bad.zip", files), tmp_path / "results", "unsafe archive")
    assert not (tmp_path / "evil.json").exists()


def test_links_are_refused(archive, tmp_path):
    files = read(archive)
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name == "plan.json" else 0o100644) << 16
            opened.writestr(entry, data)
    refuse(path, tmp_path / "results", r"plan\.json is a link")


def test_a_file_that_is_there_twice_is_refused(archive, tmp_path):
    path = write(tmp_path / "bad.zip", read(archive))
    with zipfile.ZipFile(path, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("plan.json", b"{}")
    refuse(path, tmp_path / "results", "twice")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(archive, tmp_path):
    files = relisted({**read(archive), "fold_0/checkpoint_final.pt": b"\0" * 10_000_000})
    path = write(tmp_path / "bad.zip", files, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refuse(path, tmp_path / "results", "compressed")


def test_files_that_share_their_bytes_are_refused(archive, tmp_path):
    path = write(tmp_path / "bad.zip", read(archive))
    whole = bytearray(path.read_bytes())
    (size_at,) = [
        whole.rindex(b"fold_0/checkpoint_final.pt") - 46 + offset for offset in (20,)
    ]  # compressed and plain size in the central directory
    for at in (size_at, size_at + 4):
        whole[at : at + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(whole)
    refuse(path, tmp_path / "results", "larger than the whole")


def test_a_bomb_inside_a_checkpoint_is_refused(archive, tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", b"\0" * 10_000_000)
    files = relisted({**read(archive), "fold_0/checkpoint_final.pt": inner.getvalue()})
    refuse(write(tmp_path / "bad.zip", files), tmp_path / "results", "compressed")


class Evil:
    def __reduce__(self):
        return (exit, ("code was run",))


def test_a_pickle_that_would_run_code_is_refused(archive, tmp_path):
    stream = io.BytesIO()
    torch.save({"schema": 1, "epoch": 1, "ema": Evil()}, stream)
    files = relisted({**read(archive), "fold_0/checkpoint_final.pt": stream.getvalue()})
    refuse(write(tmp_path / "bad.zip", files), tmp_path / "results", "does not work here")
    bare = relisted({**read(archive), "fold_0/checkpoint_final.pt": pickle.dumps(Evil())})
    refuse(write(tmp_path / "bad.zip", bare), tmp_path / "results", "damaged")


def test_every_flipped_byte_is_noticed(archive, tmp_path):
    files = read(archive)
    for name in files.keys() - {"manifest.json"}:
        data = bytearray(files[name])
        data[len(data) // 2] ^= 1
        path = write(tmp_path / "bad.zip", {**files, name: bytes(data)})
        refuse(path, tmp_path / "results", f"{name} is damaged")
    whole = bytearray(archive.read_bytes())  # without a new checksum of the zip
    whole[len(whole) // 2] ^= 1
    (tmp_path / "bad.zip").write_bytes(whole)
    refuse(tmp_path / "bad.zip", tmp_path / "results", "damaged")


def test_missing_surplus_and_longer_files_are_refused(archive, tmp_path):
    files = read(archive)
    results = tmp_path / "results"
    short = {name: data for name, data in files.items() if name != "plan.json"}
    refuse(
        write(tmp_path / "a.zip", short),
        results,
        r"plan\.json is missing in the archive and \d+ bytes",
    )
    refuse(
        write(tmp_path / "b.zip", relisted(short)),
        results,
        "missing in the archive and missing in its manifest",
    )
    more = {**files, "fingerprint.json": b"{}"}
    refuse(
        write(tmp_path / "c.zip", more),
        results,
        r"fingerprint\.json is 2 bytes in the archive and missing",
    )
    longer = {**files, "plan.json": files["plan.json"] + b" "}
    refuse(
        write(tmp_path / "d.zip", longer),
        results,
        r"plan\.json is \d+ bytes in the archive and \d+",
    )
    stray = relisted({**files, "fold_3/checkpoint_final.pt": b"unchecked"})
    refuse(write(tmp_path / "e.zip", stray), results, "fold_3/checkpoint_final")
    bare = {name: data for name, data in files.items() if "fold_0" not in name}
    none = relisted(with_manifest(bare, folds=[]))
    refuse(write(tmp_path / "f.zip", none), results, "not one whole model")
    best = files["fold_0/checkpoint_final.pt"]
    lacking = {
        **bare,
        "fold_0/run.json": files["fold_0/run.json"],
        "fold_0/checkpoint_best.pt": best,
    }
    only_best = relisted(with_manifest(lacking, checkpoints=["best"]))
    refuse(write(tmp_path / "g.zip", only_best), results, "not one whole model")
    unknown = with_manifest(files, checkpoints=["final", "latest"])
    refuse(write(tmp_path / "h.zip", unknown), results, "not one whole model")


def test_what_is_no_archive_is_refused(archive, tmp_path):
    results = tmp_path / "results"
    refuse(tmp_path / "nowhere.zip", results, "no model archive")
    (tmp_path / "text.zip").write_text("hello")
    refuse(tmp_path / "text.zip", results, "no model archive")
    half = archive.read_bytes()
    (tmp_path / "half.zip").write_bytes(half[: len(half) // 2])
    refuse(tmp_path / "half.zip", results, "no model archive")
    refuse(write(tmp_path / "other.zip", {"plan.json": b"{}"}), results, r"no manifest\.json")
    huge = {**read(archive), "manifest.json": b" " * 2_000_000}
    refuse(write(tmp_path / "huge.zip", huge), results, "too large")
    newer = with_manifest(read(archive), schema=99)
    refuse(write(tmp_path / "newer.zip", newer), results, "schema 99")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "Dataset501_/../../evil"),
        ("dataset", "../Dataset501_X"),
        ("dataset", "NoNumber"),
        ("objective", "../gdm"),
        ("configuration", "a/b"),
        ("configuration", ""),
    ],
)
def test_a_manifest_that_leads_out_of_the_results_is_refused(archive, tmp_path, key, value):
    files = with_manifest(read(archive), **{key: value})
    refuse(write(tmp_path / "bad.zip", files), tmp_path / "results", "impossible model")


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "Dataset777_X"), ("objective", "gdm"), ("configuration", "2d")]
)
def test_a_manifest_that_names_another_model_is_refused(archive, tmp_path, key, value):
    files = with_manifest(read(archive), **{key: value})
    refuse(write(tmp_path / "bad.zip", files), tmp_path / "results", "names the model")


def test_weights_of_another_network_are_refused(archive, tmp_path, models):
    stream = io.BytesIO()
    weights = models.shifted_weights(models.make_configuration(n_sources=2), 0.0)
    torch.save({"schema": 1, "epoch": 1, "ema": weights}, stream)
    files = relisted({**read(archive), "fold_0/checkpoint_final.pt": stream.getvalue()})
    refuse(write(tmp_path / "bad.zip", files), tmp_path / "results", "do not fit the network")


def test_a_model_is_replaced_only_when_asked(archive, tmp_path):
    folder = install_model(archive, tmp_path).folder
    (folder / "mine.txt").write_text("notes")
    with pytest.raises(CheckpointError, match="--overwrite"):
        install_model(archive, tmp_path)
    assert (folder / "mine.txt").exists()
    install_model(archive, tmp_path, overwrite=True)
    assert not (folder / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["Dataset501_Test"]


def test_a_failed_replacement_leaves_the_old_model(archive, tmp_path, monkeypatch):
    folder = install_model(archive, tmp_path).folder
    (folder / "mine.txt").write_text("notes")
    path_class = type(folder)
    rename = path_class.rename

    def failing(self, target):
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(path_class, "rename", failing)
    with pytest.raises(OutputError, match="No space left"):
        install_model(archive, tmp_path, overwrite=True)
    assert (folder / "mine.txt").exists()
    assert (folder / "fold_0" / folders.FINAL).exists()


DEAD = "4194304-01234567"  # beyond the largest number of a process


def test_leftovers_of_a_killed_installation_are_swept(archive, tmp_path):
    leftover = tmp_path / "Dataset501_Test" / f".regression__3d_fullres.{files._HOST}-{DEAD}.part"
    leftover.mkdir(parents=True)
    (leftover / "stray.txt").write_text("")
    folder = install_model(archive, tmp_path).folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert not (folder / "stray.txt").exists()


def test_a_model_is_not_installed_twice_at_once(archive, tmp_path):
    with (
        files.lock(tmp_path / "Dataset501_Test" / "regression__3d_fullres"),
        pytest.raises(BusyError, match="at work here"),
    ):
        install_model(archive, tmp_path)
    assert install_model(archive, tmp_path).folder.is_dir()


def test_another_dataset_of_the_same_number_is_told(archive, tmp_path):
    (tmp_path / "Dataset501_Mine").mkdir(parents=True)
    assert install_model(archive, tmp_path).namesakes == ("Dataset501_Mine",)


def test_a_full_disk_is_told_before_anything_is_unpacked(archive, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    refuse(archive, tmp_path / "results", "MiB are needed")
