"""Sparse-view CT from full CT: simulate the scan, reconstruct it, write the pairs as a dataset."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdmnet import __version__, codec
from gdmnet.data.case import Volume
from gdmnet.data.raw import REGION
from gdmnet.data.volume import write_volume
from gdmnet.datasets.ct_volumes import CtVolume, read_ct
from gdmnet.errors import DatasetError
from gdmnet.folders import DATASET_JSON
from gdmnet.geometry import Geometry
from gdmnet.parallel import map_cases
from gdmnet.tomography.fbp import reconstruct, view_weights
from gdmnet.tomography.filtering import FILTERS
from gdmnet.tomography.physics import MU_WATER, attenuation, hounsfield, measure
from gdmnet.tomography.record import (
    FOLDER,
    Acquisition,
    Simulation,
    load_acquisition,
    save_sinogram,
)
from gdmnet.tomography.scan import FLAT, Grid, covering_scan

FILE_ENDING = ".nii.gz"
CHANNEL, TARGET = "sparse-view CT", "CT"  # both in HU: the planner lets the network learn the rest
GEOMETRIES = ("parallel", "fan")
_USUAL_PITCH = 1.0  # mm: scanners have 0.5 to 1 at the isocentre
_LOWEST = -1024.0  # HU: what lies below pads the image outside the scanner's field of view


@dataclass(frozen=True)
class Settings:
    """How the scans are simulated; see `default_arc` and `default_filter` for those two.

    Attributes:
        views: on the arc, equidistant, the end excluded.
        geometry: "parallel" or "fan".
        arc: degrees.
        detector: of a fan, "flat" or "curved".
        source_distance: of a fan, mm from source to isocentre.
        pitch: mm from bin to bin at the isocentre; None is a pixel's smaller side, at most 1 mm,
            since no scanner's detector gets coarser with the image.
        photons: that reach a bin through air; None is without noise.
        electronic_noise: standard deviation in photons.
        filter: of the reconstruction, a name in `FILTERS`.
        mu_water: attenuation of water in 1/mm.
        seed: of the noise.
    """

    views: int = 60
    geometry: str = "parallel"
    arc: float = 180.0
    detector: str = FLAT
    source_distance: float = 595.0
    pitch: float | None = None
    photons: float | None = 1e5
    electronic_noise: float = 0.0
    filter: str = "hann"
    mu_water: float = MU_WATER
    seed: int = 0

    def __post_init__(self) -> None:
        if self.geometry not in GEOMETRIES:
            raise DatasetError(f"--geometry {self.geometry}: choose one of {', '.join(GEOMETRIES)}")
        if self.filter not in FILTERS:
            raise DatasetError(f"--filter {self.filter}: choose one of {', '.join(FILTERS)}")
        positive = (
            ("--photons", self.photons),
            ("--mu-water", self.mu_water),
            ("--pitch", self.pitch),
        )
        for option, value in positive:
            if value is not None and not 0 < value < math.inf:
                raise DatasetError(f"{option} {value:g}: must be positive")
        if not 0 <= self.electronic_noise < math.inf:
            raise DatasetError(
                f"--electronic-noise {self.electronic_noise:g}: must not be negative"
            )


@dataclass(frozen=True)
class Written:
    """What became of a dataset: its folder, cases simulated now, cases that were there already."""

    folder: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]


def default_arc(geometry: str) -> float:
    """Degrees: a half turn of parallel rays sees each line once, a fan needs a full turn."""
    return 360.0 if geometry == "fan" else 180.0


def default_filter(photons: float | None) -> str:
    """Smooth against noise; sharp without."""
    return "ram-lak" if photons is None else "hann"


def write_sparse_view_dataset(
    folder: Path,
    training: Sequence[CtVolume],
    testing: Sequence[CtVolume],
    settings: Settings,
    *,
    keep_sinograms: bool = False,
    n_processes: int = 1,
) -> Written:
    """Write a raw dataset: sparse-view CTs are the sources, the CTs they come from the targets.

    Cases that are there already, from the same CT and with the same settings, are kept;
    dataset.json is written last.

    Args:
        folder: of the dataset.
        training: CTs for imagesTr and targetsTr.
        testing: CTs for imagesTs and targetsTs.
        settings: of the scans.
        keep_sinograms: also write the noisy line integrals, simulation/CASE.npz.
        n_processes: worker processes, one case each.

    Raises:
        DatasetError: a CT that cannot be read or is not in HU; a folder that holds other cases, or
            the same ones with other settings.
        OutputError: the folder cannot be written.
    """
    jobs = [
        *(_Job(ct, "Tr", folder, settings, keep_sinograms) for ct in training),
        *(_Job(ct, "Ts", folder, settings, keep_sinograms) for ct in testing),
    ]
    _refuse_strangers(folder, jobs)
    made = map_cases(
        _simulate, jobs, n_processes=n_processes, name=lambda job: job.ct.name, title=folder.name
    )
    description = {
        "channel_names": {"0": CHANNEL},
        "target_name": TARGET,
        "file_ending": FILE_ENDING,
        "numTraining": len(training),
        REGION: "circle",  # couch and head rest count: they are in the measured data, too
        "description": f"simulated by gdm_simulate_sparse_view {__version__}",
        "simulation": codec.encode(settings),
    }
    codec.save(description, folder / DATASET_JSON)
    return Written(
        folder,
        made=tuple(job.ct.name for job, is_new in zip(jobs, made, strict=True) if is_new),
        kept=tuple(job.ct.name for job, is_new in zip(jobs, made, strict=True) if not is_new),
    )


@dataclass(frozen=True)
class _Job:
    """One case to be made."""

    ct: CtVolume
    part: str
    folder: Path
    settings: Settings
    keep_sinogram: bool

    @property
    def image(self) -> Path:
        return self.folder / f"images{self.part}" / f"{self.ct.name}_0000{FILE_ENDING}"

    @property
    def target(self) -> Path:
        return self.folder / f"targets{self.part}" / f"{self.ct.name}{FILE_ENDING}"

    @property
    def record(self) -> Path:
        return self.folder / FOLDER / f"{self.ct.name}.json"

    @property
    def sinogram(self) -> Path:
        return self.folder / FOLDER / f"{self.ct.name}.npz"

    @property
    def files(self) -> tuple[Path, ...]:
        always = (self.image, self.target, self.record)
        return (*always, self.sinogram) if self.keep_sinogram else always


def _refuse_strangers(folder: Path, jobs: Sequence[_Job]) -> None:
    wanted = {job.image for job in jobs}
    there = [path for part in ("Tr", "Ts") for path in sorted(folder.glob(f"images{part}/[!.]*"))]
    for path in there:
        if path not in wanted:
            raise DatasetError(
                f"{path}: is no case of this simulation; remove {folder}, or choose another number"
                " by -d"
            )


def _simulate(job: _Job) -> bool:
    """Make one case; False if it is there already."""
    volume = read_ct(job.ct)
    wanted = _acquisition(job, volume)
    if job.record.exists():
        _require_same(job.record, wanted)
        if all(path.exists() for path in job.files):
            return False
    for path in job.files:
        path.parent.mkdir(parents=True, exist_ok=True)
    simulation = wanted.simulation
    assert simulation is not None
    mu = attenuation(volume.array[0], wanted.mu_water)
    sinogram = measure(
        mu,
        wanted.spacing,
        wanted.scan,
        _generator(job),
        photons=simulation.photons,
        electronic_noise=simulation.electronic_noise,
    )
    mu = reconstruct(
        sinogram, wanted.slice_grid.shape, wanted.spacing, wanted.scan, window=simulation.filter
    )
    source = hounsfield(mu, wanted.mu_water)
    write_volume(job.image, Volume(source[None], volume.geometry), integer=True)
    target = np.maximum(volume.array, _LOWEST)
    write_volume(job.target, Volume(target, volume.geometry), integer=True)
    if job.keep_sinogram:
        save_sinogram(job.sinogram, sinogram, noisy=simulation.photons is not None)
    codec.save(wanted, job.record)  # last: what has a record is whole
    return True


def _acquisition(job: _Job, volume: Volume) -> Acquisition:
    settings = job.settings
    is_fan = settings.geometry == "fan"
    geometry: Geometry = volume.geometry
    grid = Grid(geometry.shape[1:], geometry.spacing[1:])
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
        source=job.ct.origin,
        sha256=hashlib.sha256(volume.array.tobytes()).hexdigest(),
        photons=settings.photons,
        electronic_noise=settings.electronic_noise,
        filter=settings.filter,
        seed=settings.seed,
        version=__version__,
    )
    return Acquisition(scan, geometry, settings.mu_water, simulation)


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
                f" {path.parent.parent}, or choose another number by -d"
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


def _generator(job: _Job) -> np.random.Generator:
    """The noise of a case depends on the seed and its name, not on order or processes."""
    digest = hashlib.sha256(job.ct.name.encode()).digest()
    return np.random.default_rng([job.settings.seed, int.from_bytes(digest[:8], "big")])
