"""Sparse-view CT from full CT: simulate the scan, reconstruct it, write the pairs as a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gdmnet import __version__, codec
from gdmnet.codec import read_json
from gdmnet.data.case import CaseFiles, Series, Volume
from gdmnet.data.case_files import FORMATS, stem_of
from gdmnet.data.dicom import case_name, find_series, grid_of
from gdmnet.data.hounsfield import why_not_hounsfield
from gdmnet.data.raw import Description, files_to_write, write_description
from gdmnet.data.volume import write_volume
from gdmnet.datasets.conversion import FILE_ENDING, drawn_for_test, own_number, read_image
from gdmnet.errors import DatasetError
from gdmnet.parallel import map_cases
from gdmnet.tomography.fbp import reconstruct_hounsfield, view_weights
from gdmnet.tomography.projection import attenuation, measure
from gdmnet.tomography.scan import (
    FLAT,
    FOLDER,
    Acquisition,
    Grid,
    ScanSettings,
    Simulation,
    covering_scan,
    load_acquisition,
    save_sinogram,
)

CHANNEL, TARGET = "sparse-view CT", "CT"  # both in HU: the planner lets the network learn the rest
_USUAL_PITCH = 1.0  # mm: scanners have 0.5 to 1 at the isocentre
_LOWEST = -1024.0  # HU: what lies below pads the image outside the scanner's field of view


@dataclass(frozen=True)
class CtVolume:
    """One CT: its name in a dataset, and its file or DICOM series."""

    name: str
    source: Path | Series

    @property
    def origin(self) -> str:
        """What to write down as where it came from; nothing of the patient."""
        return self.source.name if isinstance(self.source, Path) else "DICOM series"


def write_sparse_view_dataset(
    folder: Path,
    training: Sequence[CtVolume],
    testing: Sequence[CtVolume],
    settings: ScanSettings,
    *,
    keep_sinograms: bool = False,
    n_processes: int = 1,
) -> list[str]:
    """Write a raw dataset: sparse-view CTs are the sources, the CTs they come from the targets.

    Cases that are there already, from the same CT and with the same settings, are kept;
    dataset.json is written last.

    Args:
        folder: of the dataset, from `new_dataset`.
        training: CTs for imagesTr and targetsTr.
        testing: CTs for imagesTs and targetsTs.
        settings: of the scans.
        keep_sinograms: also write the noisy line integrals, simulation/CASE.npz.
        n_processes: worker processes, one case each.

    Returns:
        Names of the cases that were simulated now.

    Raises:
        DatasetError: a CT that cannot be read or is not in HU; a folder that holds other cases, or
            the same ones with other settings.
        BusyError: another process writes a dataset of this number.
        OutputError: the folder cannot be written.
    """
    description = Description(
        (CHANNEL,),
        TARGET,
        FILE_ENDING,
        len(training),
        metadata={
            "description": f"simulated by gdm_simulate_sparse_view {__version__}",
            "simulation": codec.encode(settings),
        },
        region="circle",  # couch and head rest count: they are in the measured data, too
    )
    jobs = [
        (ct, files_to_write(folder, part, ct.name, description))
        for part, cts in (("Tr", training), ("Ts", testing))
        for ct in cts
    ]
    with own_number(folder, may_be_there=True):
        own = {files.sources[0] for _, files in jobs}
        for path in sorted({*folder.glob("imagesT[rs]/[!.]*")} - own):
            raise DatasetError(
                f"{path}: is no case of this simulation; remove {folder}, or choose another number"
            )
        made = map_cases(
            partial(_simulate, folder / FOLDER, settings, keep_sinograms),
            jobs,
            n_processes=n_processes,
            name=lambda job: job[0].name,
            title=folder.name,
        )
        write_description(folder, description)
    return [ct.name for (ct, _), is_new in zip(jobs, made, strict=True) if is_new]


def _simulate(
    papers: Path, settings: ScanSettings, keep_sinogram: bool, job: tuple[CtVolume, CaseFiles]
) -> bool:
    """Make one case, its record and sinogram among its papers; False if it is there already."""
    ct, files = job
    volume = read_ct(ct)
    wanted = _acquisition(ct, settings, volume)
    record, line_integrals = papers / f"{ct.name}.json", papers / f"{ct.name}.npz"
    source, target = files.sources[0], files.target
    assert target is not None
    if record.exists():
        _require_same(record, wanted)
        if source.exists() and target.exists() and (line_integrals.exists() or not keep_sinogram):
            return False
    # The noise of a case depends on the seed and its name, not on order or processes.
    digest = hashlib.sha256(ct.name.encode()).digest()
    sinogram = measure(
        attenuation(volume.array[0], wanted.mu_water),
        wanted.slice_grid,
        wanted.scan,
        np.random.default_rng([settings.seed, int.from_bytes(digest[:8], "big")]),
        photons=settings.photons,
        electronic_noise=settings.electronic_noise,
    )
    image = reconstruct_hounsfield(sinogram, wanted, window=settings.filter)
    write_volume(source, Volume(image, volume.geometry), integer=True)
    cut = np.maximum(volume.array, _LOWEST)
    write_volume(target, Volume(cut, volume.geometry), integer=True)
    if keep_sinogram:
        save_sinogram(line_integrals, sinogram, noisy=settings.photons is not None)
    codec.save(wanted, record)  # last: what has a record is whole
    return True


def _acquisition(ct: CtVolume, settings: ScanSettings, volume: Volume) -> Acquisition:
    is_fan = settings.geometry == "fan"
    grid = Grid(volume.geometry.shape[1:], volume.geometry.spacing[1:])
    scan = covering_scan(
        grid,
        settings.views,
        arc=settings.arc,
        source_distance=settings.source_distance if is_fan else None,
        shape=settings.detector if is_fan else FLAT,
        pitch=settings.pitch or min(*grid.spacing, _USUAL_PITCH),
    )
    view_weights(scan)  # refuses an arc that is too short, before anything is computed
    simulation = Simulation(
        source=ct.origin,
        sha256=hashlib.sha256(volume.array.tobytes()).hexdigest(),
        photons=settings.photons,
        electronic_noise=settings.electronic_noise,
        filter=settings.filter,
        seed=settings.seed,
        version=__version__,
    )
    return Acquisition(scan, volume.geometry, settings.mu_water, simulation)


def _require_same(path: Path, wanted: Acquisition) -> None:
    """Refuse the record of an earlier run that says another thing, its version of gdmnet apart."""
    before, after = (_flat(codec.encode(a)) for a in (load_acquisition(path), wanted))
    for key, value in after.items():
        if before.get(key) != value and key != "simulation.version":
            raise DatasetError(
                f"{path}: was made with {key} {before.get(key)} instead of {value}; remove"
                f" {path.parent.parent}, or choose another number"
            )


def _flat(data: dict, prefix: str = "") -> dict[str, object]:
    """Nested objects as one, with keys like scan.detector.pitch."""
    flat: dict[str, object] = {}
    for key, value in data.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def find_ct_volumes(folder: Path, *, untilt: bool = False) -> list[CtVolume]:
    """All CTs of a folder and the folders in it, sorted by name.

    Images count first (CASE_0000.nii.gz is the case CASE); where there are none, the CT series
    among DICOM files, under names that tell nothing of the patient; `untilt` as in `find_series`.

    Raises:
        DatasetError: no such folder, nothing in it, two of one name, an unsound DICOM series.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the folder of the CT volumes by -i")
    found: dict[str, CtVolume] = {}
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or not path.name.lower().endswith(FORMATS):
            continue
        name = stem_of(path).removesuffix("_0000")
        if name in found:
            raise DatasetError(f"{path}: the case {name} is there twice; rename one of the two")
        found[name] = CtVolume(name, path)
    if not found:
        for series in find_series(folder, untilt=untilt).series:
            if series.modality == "CT":
                grid_of(series)  # unsound ones are refused by name
                if series.acquisition:
                    raise DatasetError(
                        f"{series.folder}: {series.label} is one of several acquisitions among each"
                        " other; export the one that is meant as a series of its own"
                    )
                found[case_name(series)] = CtVolume(case_name(series), series)
    if not found:
        raise DatasetError(
            f"{folder}: no CT here; put images ({', '.join(FORMATS)}) or DICOM series there"
        )
    return [found[name] for name in sorted(found)]


def read_ct(ct: CtVolume) -> Volume:
    """The volume, float32 (1, z, y, x) in HU.

    Raises:
        DatasetError: it cannot be read, or does not hold Hounsfield units.
    """
    volume = read_image(ct.source)
    low, high = volume.array.min(), volume.array.max()
    is_empty = f"the image is empty: every voxel is {low:g}" if low == high else None
    reason = is_empty or why_not_hounsfield(volume.array[0])
    if reason is not None:
        where = ct.source.folder if isinstance(ct.source, Series) else ct.source
        raise DatasetError(f"{where}: {reason}")
    return volume


def choose_test_cases(
    cts: Sequence[CtVolume], split: Path | None, fraction: float, seed: int
) -> tuple[list[CtVolume], list[CtVolume]]:
    """Training and test cases.

    The split is a JSON file {"train": [...], "test": [...]} of names; without "train", all that are
    not for the test. Where it is None, `drawn_for_test` draws.

    Raises:
        DatasetError: a broken file, a name that is not there, or one on both sides; the fraction
            is not in [0, 1).
    """
    named = {ct.name: ct for ct in cts}
    if split is not None:
        train, test = _read_split(split, list(named))
    else:
        test = sorted(drawn_for_test(named, fraction, seed))
        train = [name for name in named if name not in test]
    return [named[name] for name in train], [named[name] for name in test]


def _read_split(path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    data = read_json(path, DatasetError)
    lists = [*data.values()] if isinstance(data, dict) and {*data} <= {"train", "test"} else []
    if not lists or not all(
        isinstance(own, list) and all(isinstance(name, str) for name in own) for own in lists
    ):
        raise DatasetError(
            f'{path}: expected {{"train": ["a", "b"], "test": ["c"]}}, names of cases'
        )
    test = data.get("test", [])
    train = data.get("train", [name for name in names if name not in test])
    for name in (*train, *test):
        if name not in names:
            raise DatasetError(
                f"{path}: there is no case {json.dumps(name)} in the input folder; its cases are"
                f" named like {json.dumps(names[0])}"
            )
    if both := sorted({*train} & {*test}):
        raise DatasetError(f"{path}: {both[0]} is both for training and for the test")
    if not train:
        raise DatasetError(f"{path}: no case is left for training")
    return sorted(set(train)), sorted(set(test))
