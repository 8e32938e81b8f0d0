import hashlib
import json
import math
import random
import textwrap
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

import gdmnet.inference
from gdmnet import codec, folders
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import (
    CheckpointError,
    DatasetError,
    DeviceError,
    GdmnetError,
    OutputError,
    PlanError,
    SettingError,
)
from gdmnet.inference import PredictionSettings, load_model
from gdmnet.inference.archive import export_model, install_model
from gdmnet.inference.ensemble import Ensemble
from gdmnet.models import checkpoint
from gdmnet.models.card import ModelCard
from gdmnet.preprocessing import prepare_volumes


def is_one_line(error):
    return "\n" not in str(error.value)


def test_an_array_is_translated_on_its_own_grid_in_file_units(tmp_path, models):
    translator = load_model(models.make_model(tmp_path, {"0": 100.0}), device="cpu")
    ct = models.make_ct()
    result = translator.translate_array(ct, models.SPACING)
    assert result.shape == ct.shape
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[models.core()], ct[models.core()] + 100, atol=0.01)
    assert result[0, 0, 0] == -1024  # air, not 0


def test_channels_first_is_the_same_as_one_volume(tmp_path, models):
    translator = load_model(models.make_model(tmp_path), device="cpu")
    ct = models.make_ct()
    whole = translator.translate_array(ct[None], models.SPACING)
    np.testing.assert_array_equal(whole, translator.translate_array(ct, models.SPACING))


class Recorder(torch.nn.Module):
    """Gives its first channel back and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x[0])
        return x[:, :1]


def test_a_volume_thinner_than_a_window_lies_in_the_background_of_each_channel(tmp_path, models):
    configuration = models.make_configuration(n_sources=2)
    warm = replace(configuration.sources[1], centre=100.0)
    configuration = replace(configuration, sources=(configuration.sources[0], warm))
    translator = load_model(models.make_model(tmp_path, configuration=configuration), device="cpu")
    network = Ensemble([Recorder()], configuration, translator.card)
    translator = replace(translator, network=network)
    ct = models.make_ct(shape=(3, 21, 25))
    translator.translate_array(np.stack([ct, ct]), models.SPACING)
    for patch in translator.network.members[0].seen:
        assert patch.shape == (2, 8, 16, 16)
        for channel, centre in zip(patch, (0, 100), strict=True):
            outside = torch.cat([channel[:2], channel[5:]])
            assert torch.allclose(outside, torch.tensor((-1024 - centre) / 500))


def test_another_spacing_comes_back_on_the_given_grid(tmp_path, models):
    configuration = models.make_configuration(spacing=(1.5, 1.5, 1.5))
    translator = load_model(models.make_model(tmp_path, configuration=configuration), device="cpu")
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (9, 25, 31)), indexing="ij")
    ct = np.where(z**2 + y**2 + x**2 < 0.9, 100 * x - 50 * z, -1000).astype(np.float32)
    result = translator.translate_array(ct, (3.0, 1.2, 1.0))
    assert result.shape == ct.shape
    inner = z**2 + y**2 + x**2 < 0.3
    assert np.abs(result - ct)[inner].max() < 15


def test_folds_are_averaged_at_their_outputs(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0, "1": 300.0, "all": 1000.0})
    ct = models.make_ct()
    inside = models.core()
    for folds, shift in ((None, 150), ([1], 300), (["0"], 0), (["all"], 1000)):
        result = load_model(folder, folds=folds, device="cpu").translate_array(ct, models.SPACING)
        np.testing.assert_allclose((result - ct)[inside], shift, atol=0.01)


def test_folds_are_combined_by_their_median_when_asked_for(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0, "1": 300.0, "2": 30.0})
    translator = load_model(folder, PredictionSettings(ensemble="median"), device="cpu")
    ct = models.make_ct()
    result = translator.translate_array(ct, models.SPACING)
    np.testing.assert_allclose((result - ct)[models.core()], 30, atol=0.01)
    assert translator.card.settings.ensemble == "median"


def test_an_ensemble_gives_the_output_of_each_member(models):
    members = [torch.nn.Conv3d(1, 1, 1) for _ in range(3)]
    x = torch.randn(1, 1, 2, 3, 4)
    card = ModelCard("model", "gdm", "3d_fullres", {}, "cpu", "fp32")
    outputs = Ensemble(members, models.make_configuration(), card)(x)
    assert outputs.shape == (3, 1, 2, 3, 4)
    for output, member in zip(outputs, members, strict=True):
        torch.testing.assert_close(output, member(x)[0])


def test_the_spread_of_the_folds_comes_in_file_units(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0, "1": 300.0})
    translator = load_model(folder, device="cpu")
    ct = models.make_ct()
    volume = Volume(ct[None], models.make_geometry(ct.shape))
    case, _ = prepare_volumes("a", volume, translator.configuration)
    estimate = translator.predict(case, spread="opinions")
    spread = translator.restore_spread(estimate.std, case)
    assert spread.geometry == volume.geometry
    np.testing.assert_allclose(spread.array[0][models.core()], 150, atol=0.01)
    assert spread.array[0][0, 0, 0] == 0  # outside the body
    assert translator.spread_sources() == "2 folds, overlapping windows"
    with_tta = load_model(folder, PredictionSettings(tta=True), folds=["0"], device="cpu")
    assert with_tta.spread_sources() == "mirrored copies, overlapping windows"


def test_the_fingerprint_is_read_where_it_travels_along(tmp_path, models):
    folder = models.make_model(tmp_path)
    assert load_model(folder, device="cpu").training is None
    fingerprint = models.make_fingerprint()
    codec.save(fingerprint, folder / folders.FINGERPRINT_JSON)
    assert load_model(folder, device="cpu").training == fingerprint


def test_a_fingerprint_of_other_channels_is_refused(tmp_path, models):
    folder = models.make_model(tmp_path)
    codec.save(models.make_fingerprint(n_sources=2), folder / folders.FINGERPRINT_JSON)
    with pytest.raises(PlanError, match="channels") as error:
        load_model(folder, device="cpu")
    assert is_one_line(error)


def test_the_best_checkpoint_is_taken_when_asked_for(tmp_path, models):
    translator = load_model(
        models.make_model(tmp_path), PredictionSettings(checkpoint="best"), device="cpu"
    )
    ct = models.make_ct()
    result = translator.translate_array(ct, models.SPACING)
    np.testing.assert_allclose((result - ct)[models.core()], 50, atol=0.01)
    assert translator.card.settings.checkpoint == "best"


def test_two_channels_are_both_needed(tmp_path, models):
    configuration = models.make_configuration(n_sources=2)
    translator = load_model(models.make_model(tmp_path, configuration=configuration), device="cpu")
    ct = models.make_ct()
    result = translator.translate_array(np.stack([ct, -ct]), models.SPACING)
    np.testing.assert_allclose(result[models.core()], ct[models.core()], atol=0.01)
    with pytest.raises(DatasetError, match="2"):
        translator.translate_array(ct, models.SPACING)


def test_arrays_that_are_no_images_are_refused(tmp_path, models):
    translator = load_model(models.make_model(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="axes"):
        translator.translate_array(np.zeros((3, 3)), models.SPACING)
    broken = models.make_ct()
    broken[3, 3, 3] = np.nan
    with pytest.raises(DatasetError, match="NaN"):
        translator.translate_array(broken, models.SPACING)


@pytest.mark.parametrize(
    ("scheme", "values", "where"), [("ct", (0, 0), ""), ("zscore", (0, 7), " inside the body")]
)
def test_blank_images_are_refused_as_by_gdm_predict(tmp_path, models, scheme, values, where):
    source = replace(models.CT, scheme=scheme, low=None, high=None, background=0.0)
    configuration = replace(models.make_configuration(), sources=(source,))
    translator = load_model(models.make_model(tmp_path, configuration=configuration), device="cpu")
    image = np.full((11, 21, 25), values[0], dtype=np.float32)
    image[models.core()] = values[1]
    path = tmp_path / "x_0000.mha"
    write_volume(path, Volume(image[None], models.make_geometry(image.shape)))
    refused = pytest.raises(DatasetError, match=f"channel 0 is blank: all voxels{where} have")
    with refused:
        translator.translate_array(image, models.SPACING)
    with refused:
        translator.translate_case(CaseFiles("x", (path,)))
    with refused:
        translator.translate_files(path, tmp_path / "out.mha")
    assert not (tmp_path / "out.mha").exists()


def test_an_input_unlike_the_training_data_is_translated_with_a_warning(tmp_path, models, caplog):
    folder, ct = models.make_model(tmp_path), models.make_ct()
    unaware = load_model(folder, device="cpu").translate_array(ct, (9.0, 1.0, 1.0))
    assert caplog.messages == ["case array: 9 mm along z, but the model works at 2 mm"]
    codec.save(models.make_fingerprint(), folder / folders.FINGERPRINT_JSON)
    translator = load_model(folder, device="cpu")
    translator.translate_array(ct, models.SPACING)
    assert len(caplog.messages) == 1
    np.testing.assert_array_equal(translator.translate_array(ct, (9.0, 1.0, 1.0)), unaware)
    known = "case array: unlike the training data: spacing along z 9 mm (training 2 to 2); "
    assert caplog.messages[1].startswith(known)


def test_a_mask_beside_the_sources_is_the_body(tmp_path, models):
    translator = load_model(models.make_model(tmp_path, {"0": 100.0}), device="cpu")
    ct = models.write_ct(tmp_path / "a_0000.nrrd")
    half = np.zeros_like(ct)
    half[models.core()] = 1
    half[:, :10] = 0
    write_volume(tmp_path / "m.nrrd", Volume(half[None], models.make_geometry(ct.shape)))
    files = CaseFiles("a", (tmp_path / "a_0000.nrrd",), mask=tmp_path / "m.nrrd")
    result = translator.translate_case(files).array[0]
    np.testing.assert_allclose(result[half > 0], ct[half > 0] + 100, atol=0.01)
    assert (result[half == 0] == -1024).all()


def test_files_are_translated_without_their_target(tmp_path, models):
    translator = load_model(models.make_model(tmp_path), device="cpu")
    ct = models.write_ct(tmp_path / "a_0000.nrrd", degrees=20)
    files = CaseFiles("a", (tmp_path / "a_0000.nrrd",), target=tmp_path / "missing.nrrd")
    volume = translator.translate_case(files)
    assert volume.geometry == read_volume(tmp_path / "a_0000.nrrd").geometry
    np.testing.assert_allclose(volume.array[0][models.core()], ct[models.core()], atol=0.01)


@pytest.mark.parametrize(("integer", "kind"), [(True, sitk.sitkInt16), (False, sitk.sitkFloat32)])
def test_a_file_is_translated_to_a_file(tmp_path, models, integer, kind):
    translator = load_model(models.make_model(tmp_path, integer=integer), device="cpu")
    ct = models.write_ct(tmp_path / "a_0000.nii.gz", degrees=20)
    translator.translate_files(tmp_path / "a_0000.nii.gz", str(tmp_path / "a.mha"))
    image = sitk.ReadImage(str(tmp_path / "a.mha"))
    assert image.GetPixelID() == kind
    result = read_volume(tmp_path / "a.mha").array[0]
    np.testing.assert_allclose(result[models.core()], ct[models.core()], atol=0.01)
    with pytest.raises(OutputError, match="is the source"):
        translator.translate_files(tmp_path / "a.mha", tmp_path / "x/../a.mha")


def test_the_card_says_what_was_loaded(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0, "1": 1.0})
    card = load_model(folder, PredictionSettings(step_size=0.7, tta=True), device="cpu").card
    assert list(card.checkpoints) == ["0", "1"]
    assert len(set(card.checkpoints.values())) == 2
    assert all(len(digest) == 64 for digest in card.checkpoints.values())
    assert (card.device, card.precision) == ("cpu", "fp32")
    assert card.settings == PredictionSettings(step_size=0.7, tta=True)


def test_networks_that_a_device_has_no_room_for_are_refused(tmp_path, models, monkeypatch):
    def full(network, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    folder = models.make_model(tmp_path, {"0": 0.0, "1": 1.0})
    monkeypatch.setattr(Ensemble, "to", full)
    with pytest.raises(DeviceError, match="not enough memory for 2 networks; free it, or use"):
        load_model(folder, device="cpu")


def test_half_precision_is_used_only_where_the_device_has_it(tmp_path, models, monkeypatch):
    folder = models.make_model(tmp_path, precision="bf16")
    monkeypatch.setattr("gdmnet.models.precision.cpu_has_bf16", lambda: False)
    assert load_model(folder, device="cpu").card.precision == "fp32"
    monkeypatch.setattr("gdmnet.models.precision.cpu_has_bf16", lambda: True)
    translator = load_model(folder, device="cpu")
    assert translator.card.precision == "bf16"
    ct = models.make_ct()
    result = translator.translate_array(ct, models.SPACING)
    assert result.dtype == np.float32
    assert np.abs(result - ct)[models.core()].max() < 4
    fp16 = models.make_model(tmp_path / "other", precision="fp16")
    assert load_model(fp16, device="cpu").card.precision == "fp32"


def test_a_network_that_overflows_is_an_error_of_the_case(tmp_path, models):
    translator = load_model(models.make_model(tmp_path), device="cpu")
    torch.nn.init.constant_(translator.network.members[0].head.bias, torch.inf)
    with pytest.raises(DatasetError, match="not finite") as error:
        translator.translate_array(models.make_ct(), models.SPACING)
    assert is_one_line(error)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_damaged_checkpoint_is_refused(tmp_path, models):
    folder = models.make_model(tmp_path)
    path = folder / "fold_0" / folders.FINAL
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint_final\.pt") as error:
            load_model(folder, device="cpu")
        assert is_one_line(error)


@pytest.mark.parametrize("name", ["ema", "twin"])
def test_weights_that_are_not_finite_are_refused_at_load_export_and_install(tmp_path, models, name):
    folder = models.make_model(tmp_path / "results")
    export_model(folder, tmp_path / "model.zip")
    path = folder / "fold_0" / "checkpoint_final.pt"
    state = checkpoint.load(path)
    twin = {"twin": {n: w.clone() for n, w in state["ema"].items()}} | state
    twin[name]["head.bias"][0] = float("nan")
    checkpoint.save(path, {n: part for n, part in twin.items() if n != "schema"})
    with pytest.raises(CheckpointError, match=r"no finite real numbers \(head\.bias\)"):
        load_model(folder, device="cpu")
    with pytest.raises(CheckpointError, match="no finite"):
        export_model(folder, tmp_path / "spoilt.zip")
    assert not (tmp_path / "spoilt.zip").exists()
    spoilt = replaced(tmp_path / "model.zip", "fold_0/checkpoint_final.pt", path.read_bytes())
    with pytest.raises(CheckpointError, match=r"does not work here: .*no finite"):
        install_model(spoilt, tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())
    huge = {**state["ema"], "head.bias": torch.full_like(state["ema"]["head.bias"], 1e30)}
    whole, complex_ = (
        {n: w.clone().to(kind) for n, w in state["ema"].items()}
        for kind in (torch.int32, torch.complex64)
    )
    for weights in (huge, whole, complex_):
        checkpoint.save(path, {"epoch": 1, "ema": weights})
        with pytest.raises(CheckpointError, match="no finite real numbers"):
            load_model(folder, device="cpu")


def replaced(archive, name, data):
    """The archive with other bytes for one file, and a manifest that agrees."""
    with zipfile.ZipFile(archive) as opened:
        files = {entry: opened.read(entry) for entry in opened.namelist()} | {name: data}
    manifest = json.loads(files["manifest.json"])
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(archive, "w") as opened:
        for entry, content in files.items():
            opened.writestr(entry, content)
    return archive


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"epochs": 9}}, "epochs is 1 in fold 0, 9 in fold 1"),
        ({"options": {"perceptual": 0.5}}, "option perceptual is 0.0 in fold 0, 0.5 in fold 1"),
        ({"realism": 0.5}, "realism is False in fold 0, True in fold 1"),
        ({"pretrained_sha256": "a"}, "pretrained_sha256 is False in fold 0, True in fold 1"),
    ],
)
def test_folds_trained_differently_are_not_averaged_unasked(tmp_path, models, change, words):
    folder = models.make_model(tmp_path, {"0": 0.0, "1": 60.0})
    run = codec.read_json(folder / "fold_1" / "run.json")
    recipe = run["recipe"] | change.pop("recipe", {}) | {"seed": 5}  # another seed is no difference
    codec.save(run | change | {"recipe": recipe}, folder / "fold_1" / "run.json")
    with pytest.raises(CheckpointError, match=words):
        load_model(folder, device="cpu")
    assert load_model(folder, device="cpu", folds=["0"]).card.checkpoints.keys() == {"0"}
    if "realism" not in change:  # which a model without a twin cannot have
        mixed = load_model(folder, PredictionSettings(mixed_folds=True), device="cpu")
        assert len(mixed.card.checkpoints) == 2


def places(data, path=()):
    """Where a value lies in JSON data: the keys that lead to it."""
    children = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in children:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


ODD = [None, True, -1, 0, 3, 0.5, 1e300, 10**400, math.nan, math.inf, "", "../x", [], [1, 2, 3], {}]


@pytest.mark.parametrize("name", ["plan.json", "fingerprint.json", "fold_0/run.json"])
def test_a_model_folder_with_an_odd_number_anywhere_is_loaded_or_refused_in_a_line(
    tmp_path, models, name
):
    folder = models.make_model(tmp_path)
    codec.save(models.make_fingerprint(), folder / "fingerprint.json")
    whole, rng = (folder / name).read_text(), random.Random(name)
    where, refused = list(places(json.loads(whole))), []
    for _ in range(80):
        *path, last = rng.choice(where)
        data = at = json.loads(whole)
        for key in path:
            at = at[key]
        if rng.random() < 0.2:
            del at[last]
        else:
            at[last] = rng.choice(ODD)
        (folder / name).write_text(json.dumps(data))
        try:
            load_model(folder, device="cpu")
        except GdmnetError as problem:
            refused.append(str(problem))
    assert len(refused) > 30
    assert [text for text in refused if "\n" in text] == []


def test_weights_of_another_network_are_refused(tmp_path, models):
    folder = models.make_model(tmp_path)
    other = models.make_model(
        tmp_path / "two", configuration=models.make_configuration(n_sources=2)
    )
    (other / "fold_0" / folders.FINAL).replace(folder / "fold_0" / folders.FINAL)
    with pytest.raises(CheckpointError, match="do not fit") as error:
        load_model(folder, device="cpu")
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("file", "changes", "kind", "text"),
    [
        ("fold_0/run.json", {"objective": "telepathy"}, CheckpointError, "telepathy"),
        ("fold_0/run.json", {"objective": "gdm"}, CheckpointError, "gdm"),
        ("fold_0/run.json", {"configuration": "2d"}, CheckpointError, "configuration 2d"),
        ("fold_0/run.json", {"schema": 99}, PlanError, "schema 99"),
        ("fold_0/run.json", {"surprise": 1}, PlanError, "surprise"),
        ("plan.json", {"schema": 99}, PlanError, "schema 99"),
    ],
)
def test_a_folder_of_another_objective_or_version_is_refused(
    tmp_path, models, file, changes, kind, text
):
    folder = models.make_model(tmp_path)
    edit_json(folder / file, **changes)
    with pytest.raises(kind, match=text) as error:
        load_model(folder, device="cpu")
    assert is_one_line(error)


def test_a_missing_run_file_is_refused(tmp_path, models):
    folder = models.make_model(tmp_path)
    (folder / "fold_0" / folders.RUN_JSON).unlink()
    with pytest.raises(GdmnetError, match=r"run\.json"):
        load_model(folder, device="cpu")


def test_a_missing_best_checkpoint_is_refused(tmp_path, models):
    folder = models.make_model(tmp_path)
    (folder / "fold_0" / folders.BEST).unlink()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(folder, PredictionSettings(checkpoint="best"), device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path, models):
    with pytest.raises(DeviceError, match="cuda"):
        load_model(models.make_model(tmp_path), device="cuda")


def test_impossible_settings_are_refused():
    for name, value in (("checkpoint", "latest"), ("step_size", 0.0), ("ensemble", "mode")):
        with pytest.raises(SettingError, match=name):
            PredictionSettings(**{name: value})


def test_a_model_folder_works_wherever_it_was_copied(tmp_path, models):
    folder = models.make_model(tmp_path)
    moved = folder.rename(tmp_path / "mailed model")
    ct = models.make_ct()
    result = load_model(str(moved), device="cpu").translate_array(ct, models.SPACING)
    np.testing.assert_allclose(result[models.core()], ct[models.core()], atol=0.01)


def test_the_documented_example_runs(tmp_path, models, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.make_model(tmp_path / "gdmnet_results", objective="gdm")
    ct = models.write_ct(tmp_path / "in" / "patient_0000.nii.gz")
    example = str(gdmnet.inference.__doc__).split("finished:\n", 1)[1]
    names: dict[str, np.ndarray] = {}
    exec(textwrap.dedent(example), names)
    np.testing.assert_allclose(names["target"][models.core()], ct[models.core()], atol=0.01)
    written = read_volume(tmp_path / "patient.nii.gz").array[0]
    np.testing.assert_array_equal(written[models.core()], ct[models.core()])
