"""Sparse-view CT from full CT: simulate the scan, reconstruct it, write the pairs as a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gdmnet import __version__, codec
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.raw import Description, files_to_write, write_description
from gdmnet.data.volume import write_volume
from gdmnet.datasets.conversion import FILE_ENDING, own_number
from gdmnet.datasets.ct_volumes import CtVolume, read_ct
from gdmnet.errors import DatasetError
from gdmnet.parallel import map_cases
from gdmnet.tomography.fbp import reconstruct_hounsfield, view_weights
from gdmnet.tomography.projection import attenuation, measure
from gdmnet.tomography.scan import (
    FOLDER,
    Acquisition,
    Grid,
    Simulation,
    covering_scan,
    load_acquisition,
    save_sinogram,
)
from gdmnet.tomography.settings import FLAT, ScanSettings

CHANNEL, TARGET = "sparse-view CT", "CT"  # both in HU: the planner lets the network learn the rest
_USUAL_PITCH = 1.0  # mm: scanners have 0.5 to 1 at the isocentre
_LOWEST = -1024.0  # HU: what lies below pads the image outside the scanner's field of view


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
        Names of the cases that were simulated now; the others were there already.

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
        _refuse_strangers(folder, {files.sources[0] for _, files in jobs})
        made = map_cases(
            partial(_simulate, folder / FOLDER, settings, keep_sinograms),
            jobs,
            n_processes=n_processes,
            name=lambda job: job[0].name,
            title=folder.name,
        )
        write_description(folder, description)
    return [ct.name for (ct, _), is_new in zip(jobs, made, strict=True) if is_new]


def _refuse_strangers(folder: Path, wanted: Collection[Path]) -> None:
    there = [path for part in ("Tr", "Ts") for path in sorted(folder.glob(f"images{part}/[!.]*"))]
    for path in there:
        if path not in wanted:
            raise DatasetError(
                f"{path}: is no case of this simulation; remove {folder}, or choose another number"
            )


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
        needed = [source, target, *([line_integrals] if keep_sinogram else [])]
        if all(path.exists() for path in needed):
            return False
    sinogram = measure(
        attenuation(volume.array[0], wanted.mu_water),
        wanted.slice_grid,
        wanted.scan,
        _generator(ct.name, settings.seed),
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
    """The record of an earlier run says the same, its version of gdmnet apart.

    Raises:
        DatasetError: the first difference, with both values.
    """
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
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _generator(name: str, seed: int) -> np.random.Generator:
    """The noise of a case depends on the seed and its name, not on order or processes."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
