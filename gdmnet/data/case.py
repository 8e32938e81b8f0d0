"""The nouns of data: a volume, the files of a case, a prepared case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from gdmnet.arrays.crop import Box
from gdmnet.data.case_files import read_errors
from gdmnet.files import file_sha256
from gdmnet.geometry import Geometry, Shape
from gdmnet.plan import Normalisation


@dataclass(frozen=True)
class Volume:
    """One image or several channels on one grid: float32 (c, z, y, x) in LPS, file units."""

    array: NDArray
    geometry: Geometry


@dataclass(frozen=True)
class SeriesHeader:
    """What the headers of all slices of a DICOM series have in common."""

    study: str  # StudyInstanceUID
    frame: str  # FrameOfReferenceUID
    patient: str  # PatientID; it must not be printed
    modality: str  # CT, MR, ...
    description: str  # SeriesDescription


@dataclass(frozen=True)
class Series(SeriesHeader):
    """A DICOM series, as the headers of its slices tell.

    The slant of a tilted gantry is by how many mm each slice lies further along columns' numbers
    and rows' numbers than the one before; the grid is then a plain one that holds all slices.
    """

    uid: str  # SeriesInstanceUID
    files: tuple[Path, ...]  # one a slice, sorted along the slices' normal if the series is sound
    geometry: Geometry | None  # None if the slices do not make a grid
    problem: str | None = None  # why they do not
    acquisition: str = ""  # of several that lie among each other: "EchoTime=90"
    slant: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """What a person tells series apart by: "MR t1_mprage_sag"."""
        return " ".join(filter(None, (self.modality, self.description, self.acquisition)))

    @property
    def folder(self) -> Path:
        """Where its first slice lies."""
        return self.files[0].parent


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case; a source channel each, in channel order.

    A case that comes as DICOM has `series`, one a channel, and no `sources`.
    """

    identifier: str
    sources: tuple[Path, ...]
    target: Path | None = None
    mask: Path | None = None
    series: tuple[Series, ...] = ()

    @read_errors()
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file by its role: "0000" for the first channel, "target", "mask".

        Raises:
            DatasetError: a file cannot be read.
        """
        sources = {f"{channel:04d}": path for channel, path in enumerate(self.sources)}
        roles = {**sources, "target": self.target, "mask": self.mask}
        return {role: file_sha256(path) for role, path in roles.items() if path is not None}


@dataclass(frozen=True)
class CaseRecord:
    """All of a prepared case but its arrays; stored as JSON beside them.

    The target's normalisation has this case's own numbers, or the plan's by a dataset-level scheme.
    `detail` is (sum of s t, sum of s s) inside the body: s and t are what the source of the
    target's quantity and the target show beyond the prepared grid's resolution; zeros where there
    is no such source, no target, or no axis became coarser.
    """

    identifier: str
    geometry: Geometry  # the source's own grid, to which predictions return
    box: Box  # the crop to the body, in voxels of that grid
    spacing: tuple[float, float, float]  # mm (z, y, x) of the prepared arrays
    shape: Shape  # of the prepared arrays (z, y, x)
    mask_rule: str  # that made the body: "given", "non-zero", "above -500 HU", "otsu"
    target: Normalisation | None  # None where the case has no target
    digests: dict[str, str] = field(default_factory=dict)  # of a training case's raw files
    decided_by: str = ""  # SHA-256 of what in the configuration decides a training case
    detail: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Case:
    """A prepared case in network units.

    Outline and detail, at prediction only, lie in the crop of the source's own grid. The detail is
    what the source of the target's quantity shows beyond the prepared grid's resolution; None where
    there is no such source or no axis became coarser.
    """

    record: CaseRecord
    source: NDArray  # float32 (c, z, y, x)
    target: NDArray | None  # float32 (1, z, y, x), or None at prediction
    body: NDArray  # uint8 (z, y, x), 1 where the target counts
    patient: NDArray | None = None  # uint8 (z, y, x), the body where `body` is more than that
    outline: NDArray | None = None  # uint8 (z, y, x), `body` there
    detail: NDArray | None = None  # float32 (1, z, y, x)
