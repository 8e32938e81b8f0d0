"""Images of pairs to a raw dataset: checked, resampled if asked, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdmnet import __version__, codec
from gdmnet.arrays.normalise import scheme_of
from gdmnet.data.case import Series, Volume
from gdmnet.data.dicom import grid_of, read_series
from gdmnet.data.dicom_objects import DrawnRegions, read_regions
from gdmnet.data.raw import Description, files_to_write, is_name, write_description
from gdmnet.data.regrid import regrid, share_inside
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.datasets.pair_picture import draw_pair
from gdmnet.errors import DatasetError
from gdmnet.files import lock, sweep, whole_folder
from gdmnet.folders import SPLITS_JSON, dataset_names
from gdmnet.geometry import Geometry, grid_difference
from gdmnet.parallel import map_cases
from gdmnet.report.picture import save_picture

FILE_ENDING = ".nii.gz"
REGIONS = "regions"  # Tr and Ts: label files for the evaluation
REGISTERED = "registered"  # folder of the pictures
Image = Path | Series | DrawnRegions
"""A file, a DICOM series, or contours that were drawn on one."""
_LONGEST_NAME = 100  # bytes: models and comparisons of the dataset have it in their names
_AIR = -1024.0  # HU outside of a CT


@dataclass(frozen=True)
class CaseImages:
    """The images of one case."""

    identifier: str
    sources: tuple[Image, ...]  # one a channel, in channel order
    target: Image | None = None  # None of a test case
    mask: Image | None = None
    regions: Image | None = None  # labels for the evaluation, which no training reads

    @property
    def images(self) -> list[Image]:
        """All that are there."""
        every = (*self.sources, self.target, self.mask, self.regions)
        return [image for image in every if image is not None]


@dataclass(frozen=True)
class Conversion:
    """What becomes a raw dataset; names, patterns and metadata are those of its `Description`."""

    channel_names: tuple[str, ...]
    target_name: str
    training: tuple[CaseImages, ...]  # every one has a target
    testing: tuple[CaseImages, ...] = ()
    resample: str | None = None  # "source" or "target", which goes onto the other's grid
    splits: tuple[dict[str, list[str]], ...] = ()  # splits_final.json; () for gdmnet's own
    registered: dict[str, str] = field(default_factory=dict)  # case -> how; these get a picture
    source_series: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.channel_names, self.target_name):
            if not is_name(name):
                raise DatasetError(f"a channel cannot be called {name!r}; give it a short name")


def number_and_name(dataset: str | int) -> tuple[int, str | None]:
    """The number of a dataset given as 512 or Dataset512_Name, and its name if there is one.

    Raises:
        DatasetError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,3})|Dataset(\d{3})_(.+)", str(dataset))
    if match is None:
        raise DatasetError(f"{dataset} is no number of a dataset; give one from 0 to 999")
    return int(match[1] or match[2]), match[3]


def new_dataset(raw: Path, dataset: str | int, name: str, *, may_be_there: bool = False) -> Path:
    """The folder of a dataset to be made, given by its number and a name or as Dataset512_Name.

    The same dataset `may_be_there` already, to be gone on with.

    Raises:
        DatasetError: the number is impossible or taken, or the name cannot be a folder's.
    """
    number, own_name = number_and_name(dataset)
    name = own_name or name
    if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > _LONGEST_NAME:
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:20]}..."
        raise DatasetError(
            f"{shown!r} is no name for a dataset: use letters, digits and _ - . +, at most"
            f" {_LONGEST_NAME} bytes"
        )
    folder = raw / f"Dataset{number:03d}_{name}"
    for there in dataset_names(raw):
        if int(there[7:10]) == number and not (may_be_there and there == folder.name):
            raise DatasetError(f"{raw}: {there} is there already; choose another number")
    return folder


@contextmanager
def own_number(dataset: Path, *, may_be_there: bool = False) -> Iterator[None]:
    """Keep the number of a dataset of `new_dataset` from other processes while it is written.

    Raises:
        BusyError: another process writes a dataset of this number.
        DatasetError: the number has been taken since.
    """
    with lock(dataset.parent / dataset.name.split("_")[0]):
        new_dataset(dataset.parent, dataset.name, "", may_be_there=may_be_there)
        sweep(dataset.parent, only=dataset.name)  # what a killed process has left
        for folder in dataset.glob("*/"):
            sweep(folder)
        yield


def drawn_for_test(patients: Collection[str], fraction: float, seed: int) -> set[str]:
    """A fraction in [0, 1) of the patients, drawn for the test, at least one less than there are.

    Raises:
        DatasetError: the fraction is out of its bounds.
    """
    if not 0 <= fraction < 1:
        raise DatasetError(f"--test-fraction {fraction:g}: must lie in [0, 1)")
    order = np.random.default_rng(seed).permutation(sorted(patients))
    return {str(name) for name in order[: min(round(fraction * len(order)), len(order) - 1)]}


def set_apart(
    conversion: Conversion,
    patients: Mapping[str, str],
    test: Collection[str] = (),
    *,
    fraction: float = 0.0,
    seed: int = 0,
) -> Conversion:
    """The same with training cases moved to the test cases: all of a patient, or none.

    Args:
        conversion: whose training cases are looked at.
        patients: case -> its patient; a case that is not named is its own.
        test: names of cases or of patients; () draws them by `drawn_for_test`.
        fraction: share of the patients to be drawn.
        seed: of the draw.

    Raises:
        DatasetError: an unknown name, nothing is left for training, or an impossible draw.
    """
    if test and fraction:
        raise DatasetError("--test names the test cases and --test-fraction draws them; give one")
    owner = {c.identifier: patients.get(c.identifier, c.identifier) for c in conversion.training}
    unknown = set(test) - {*owner, *owner.values()}
    if unknown:
        raise DatasetError(
            f"--test {min(unknown)}: no training case and no patient has this name; there is"
            f" {min(owner.values())}"
        )
    chosen = {owner.get(name, name) for name in test}
    if not test:
        chosen = drawn_for_test(set(owner.values()), fraction, seed)
    moved = tuple(c for c in conversion.training if owner[c.identifier] in chosen)
    kept = tuple(c for c in conversion.training if owner[c.identifier] not in chosen)
    if not kept:
        raise DatasetError("--test: no case is left for training; name fewer")
    names = {case.identifier for case in kept}
    folds = [
        {part: [name for name in own if name in names] for part, own in fold.items()}
        for fold in conversion.splits
    ]
    splits = tuple(fold for fold in folds if all(fold.values()))
    return replace(conversion, training=kept, testing=(*conversion.testing, *moved), splits=splits)


def grid_complaints(conversion: Conversion) -> list[str]:
    """What keeps the images of each case from lying on one grid; reads headers only."""
    complaints: list[str] = []
    for case in (*conversion.training, *conversion.testing):
        name, found = case.identifier, _grid_complaints(case, conversion.resample)
        try:
            complaints.extend(f"{name}: {text}" for text in found)
        except DatasetError as error:
            complaints.append(f"{name}: {error}")
    return complaints


def write_dataset(conversion: Conversion, dataset: Path, *, n_processes: int = 1) -> None:
    """Write a raw dataset to a folder of `new_dataset`, whole or not at all.

    Raises:
        DatasetError: an image cannot be read, or the images of a case do not fit.
        BusyError: another process writes a dataset of this number.
        OutputError: the folder cannot be written.
    """
    description = Description(
        conversion.channel_names,
        conversion.target_name,
        FILE_ENDING,
        len(conversion.training),
        metadata={
            "resampled": conversion.resample or "nothing",
            "converted_by": f"gdmnet {__version__}",
            **({"registered": conversion.registered} if conversion.registered else {}),
            **conversion.metadata,
        },
        source_series=conversion.source_series,
    )
    with own_number(dataset), whole_folder(dataset) as folder:
        for part, cases in (("Tr", conversion.training), ("Ts", conversion.testing)):
            write = partial(_write_case, folder, part, description, conversion)
            map_cases(write, cases, n_processes=n_processes, title="converting")
        if conversion.splits:
            codec.save(conversion.splits, folder / SPLITS_JSON)
        write_description(folder, description)


def _write_case(
    folder: Path, part: str, description: Description, conversion: Conversion, case: CaseImages
) -> None:
    resample = conversion.resample
    grid = _grid(case, resample)
    files = files_to_write(folder, part, case.identifier, description)
    regions = folder / f"{REGIONS}{part}" / f"{case.identifier}{FILE_ENDING}"
    for image, path, name in zip(
        (*case.sources, case.target, case.mask, case.regions),
        (*files.sources, files.target, files.mask, regions),
        (*description.channel_names, description.target_name, None, None),
        strict=True,
    ):
        if image is None or path is None:
            continue
        volume = read_image(image)
        if image is case.mask:
            volume = Volume((volume.array > 0).astype(np.float32), volume.geometry)
        difference = grid_difference(volume.geometry, grid)
        if difference is None:
            volume = Volume(volume.array, grid)
        elif resample is not None:
            volume = _regridded(volume, grid, name)
        else:
            raise DatasetError(
                f"{case.identifier}: {name_of_image(image)} is on another grid than its partner:"
                f" {difference}"
            )
        # Resampled HU are rounded if int16 can hold them.
        is_ct = isinstance(image, Series) and image.modality == "CT"
        values = np.rint(volume.array) if is_ct else volume.array
        write_volume(path, volume, integer=is_whole(values))
    if case.identifier in conversion.registered:
        picture = draw_pair(files, description, conversion.registered[case.identifier])
        save_picture(picture, folder / REGISTERED / f"{case.identifier}.png")


def _regridded(volume: Volume, grid: Geometry, name: str | None) -> Volume:
    """A channel of this name on another grid; None is the name of labels, which stay whole."""
    if name is None:
        labels = np.zeros((1, *grid.shape), np.float32)
        for label in np.unique(volume.array[volume.array > 0]):
            one = Volume((volume.array == label).astype(np.float32), volume.geometry)
            labels[regrid(one, grid, fill=0.0).array >= 0.5] = label
        return Volume(labels, grid)
    is_ct = scheme_of(name, target=False) == "ct"
    return regrid(volume, grid, fill=_AIR if is_ct else min(0.0, float(volume.array.min())))


def _grid(case: CaseImages, resample: str | None) -> Geometry:
    """The grid of the one that stays."""
    target = case.target if resample == "source" else None
    return _grid_of(target or case.sources[0])


def _grid_complaints(case: CaseImages, resample: str | None) -> Iterator[str]:
    grid = _grid(case, resample)
    for image in case.images:
        other, name = _grid_of(image), name_of_image(image)
        difference = grid_difference(other, grid)
        if difference and resample is None:
            yield (
                f"{name} on another grid: {difference}; try --resample target or --resample source"
            )
        elif difference and share_inside(grid, other) == 0:
            yield f"{name} does not overlap with its partner in space"


def read_image(image: Image) -> Volume:
    """The image as float32 (1, z, y, x) in LPS, file units.

    Raises:
        DatasetError: it cannot be read.
    """
    if isinstance(image, DrawnRegions):
        return read_regions(image)
    return read_series(image) if isinstance(image, Series) else read_volume(image)


def _grid_of(image: Image) -> Geometry:
    """The grid of the image, from headers only."""
    if isinstance(image, DrawnRegions):
        return image.geometry
    return grid_of(image) if isinstance(image, Series) else read_geometry(image)


def name_of_image(image: Image) -> str:
    """The file's name, or modality and description of the series: nothing of the patient."""
    if isinstance(image, DrawnRegions):
        return " and ".join(path.name for path in image.files)
    return image.label if isinstance(image, Series) else image.name


def is_whole(array: NDArray) -> bool:
    """True if int16 holds every value exactly."""
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    return bool(fits and (array == np.rint(array)).all())
