"""Sparse-view CT from full CT: simulate the scan, reconstruct it, write the pairs as a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class WrittenDataset:
    """What became of a dataset: its folder, cases simulated now, cases that were there already."""

    folder: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]


def write_sparse_view_dataset(
    folder: Path,
    training: Sequence[CtVolume],
    testing: Sequence[CtVolume],
    settings: ScanSettings,
    *,
    keep_sinograms: bool = False,
    n_processes: int = 1,
) -> WrittenDataset:
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
        _SimulatedCase(ct, files_to_write(folder, part, ct.name, description), folder / FOLDER)
        for part, cts in (("Tr", training), ("Ts", testing))
        for ct in cts
    ]
    with own_number(folder, may_be_there=True):
        _refuse_strangers(folder, jobs)
        made = map_cases(
            partial(_simulate, settings=settings, keep_sinogram=keep_sinograms),
            jobs,
            n_processes=n_processes,
            name=lambda job: job.ct.name,
            title=folder.name,
        )
        write_description(folder, description)
    names = [(job.ct.name, is_new) for job, is_new in zip(jobs, made, strict=True)]
    return WrittenDataset(
        folder,
        made=tuple(name for name, is_new in names if is_new),
        kept=tuple(name for name, is_new in names if not is_new),
    )


@dataclass(frozen=True)
class _SimulatedCase:
    """One case to be made: its CT, and where its images, record and sinogram shall lie."""

    ct: CtVolume
    files: CaseFiles
    papers: Path

    @property
    def record(self) -> Path:
        return self.papers / f"{self.ct.name}.json"

    @property
    def sinogram(self) -> Path:
        return self.papers / f"{self.ct.name}.npz"


def _refuse_strangers(folder: Path, jobs: Sequence[_SimulatedCase]) -> None:
    wanted = {job.files.sources[0] for job in jobs}
    there = [path for part in ("Tr", "Ts") for path in sorted(folder.glob(f"images{part}/[!.]*"))]
    for path in there:
        if path not in wanted:
            raise DatasetError(
                f"{path}: is no case of this simulation; remove {folder}, or choose another number"
            )


def _simulate(job: _SimulatedCase, *, settings: ScanSettings, keep_sinogram: bool) -> bool:
    """Make one case; False if it is there already."""
    volume = read_ct(job.ct)
    wanted = _acquisition(job.ct, settings, volume)
    source, target = job.files.sources[0], job.files.target
    assert target is not None
    if job.record.exists():
        _require_same(job.record, wanted)
        files = [source, target, *([job.sinogram] if keep_sinogram else [])]
        if all(path.exists() for path in files):
            return False
    sinogram = measure(
        attenuation(volume.array[0], wanted.mu_water),
        wanted.scan,
        wanted.slice_grid,
        _generator(job.ct.name, settings.seed),
        photons=settings.photons,
        electronic_noise=settings.electronic_noise,
    )
    image = reconstruct_hounsfield(sinogram, wanted, window=settings.filter)
    write_volume(source, Volume(image, volume.geometry), integer=True)
    cut = np.maximum(volume.array, _LOWEST)
    write_volume(target, Volume(cut, volume.geometry), integer=True)
    if keep_sinogram:
        save_sinogram(job.sinogram, sinogram, noisy=settings.photons is not None)
    codec.save(wanted, job.record)  # last: what has a record is whole
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
