"""The nouns of data: a volume, the files of a case, a prepared case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from gdmnet.arrays.crop import Box
from gdmnet.errors import DatasetError
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
    """What the headers of all slices of a DICOM series have in common.

    Attributes:
        study: StudyInstanceUID.
        frame: FrameOfReferenceUID.
        patient: PatientID; it must not be printed.
        modality: CT, MR, ...
        description: SeriesDescription.
    """

    study: str
    frame: str
    patient: str
    modality: str
    description: str


@dataclass(frozen=True)
class Series(SeriesHeader):
    """A DICOM series, as the headers of its slices tell.

    Attributes:
        uid: SeriesInstanceUID.
        files: one a slice, sorted along the slices' normal if the series is sound.
        geometry: the grid; None if the slices do not make one.
        problem: why they do not.
        acquisition: which one of several that lie among each other it is, "EchoTime=90"; "" if the
            series has one only.
        slant: of a tilted gantry: mm by which each slice lies further along columns' numbers and
            rows' numbers than the one before; None where slices lie straight above each other.
        upright: the plain grid that holds all slices of a tilted gantry.
    """

    uid: str
    files: tuple[Path, ...]
    geometry: Geometry | None
    problem: str | None = None
    acquisition: str = ""
    slant: tuple[float, float] | None = None
    upright: Geometry | None = None

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

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file by its role: "0000" for the first channel, "target", "mask".

        Raises:
            DatasetError: a file cannot be read.
        """
        roles = {f"{channel:04d}": path for channel, path in enumerate(self.sources)}
        others = {"target": self.target, "mask": self.mask}
        roles |= {role: path for role, path in others.items() if path is not None}
        try:
            return {role: file_sha256(path) for role, path in roles.items()}
        except OSError as problem:
            raise DatasetError(f"{problem.filename}: cannot be read ({problem.strerror})") from None


@dataclass(frozen=True)
class CaseRecord:
    """All of a prepared case but its arrays; stored as JSON beside them.

    Attributes:
        identifier: name of the case.
        geometry: the source's own grid, to which predictions return.
        box: the crop to the body, in voxels of that grid.
        spacing: mm (z, y, x) of the prepared arrays.
        shape: of the prepared arrays (z, y, x).
        mask_rule: how the body mask came about ("given", "non-zero", "above -500 HU", "otsu").
        target: the target's normalisation with this case's own numbers (a dataset-level scheme
            gives the plan's); None where the case has no target.
        digests: of the raw files that a training case was prepared from, `CaseFiles.digests`.
        decided_by: SHA-256 of what in the configuration decides a training case.
        detail: (sum of s t, sum of s s) inside the body: s and t are what the source of the
            target's quantity and the target show beyond the prepared grid's resolution; zeros
            where there is no such source, no target, or no axis became coarser.
    """

    identifier: str
    geometry: Geometry
    box: Box
    spacing: tuple[float, float, float]
    shape: Shape
    mask_rule: str
    target: Normalisation | None
    digests: dict[str, str] = field(default_factory=dict)
    decided_by: str = ""
    detail: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Case:
    """A prepared case in network units.

    Attributes:
        record: everything but the arrays.
        source: float32 (c, z, y, x).
        target: float32 (1, z, y, x), or None at prediction.
        body: uint8 (z, y, x), 1 where the target counts: inside the body, or in all of the field of
            view; on the prepared grid.
        patient: uint8 (z, y, x), the body where `body` is more than that; None where it is not.
        outline: uint8 (z, y, x), `body` in the crop of the source's own grid, at prediction; None
            where there is a target.
        detail: float32 (1, z, y, x) in the crop of the source's own grid: what the source of the
            target's quantity shows beyond the prepared grid's resolution, at prediction; None
            where there is no such source or no axis became coarser.
    """

    record: CaseRecord
    source: NDArray
    target: NDArray | None
    body: NDArray
    patient: NDArray | None = None
    outline: NDArray | None = None
    detail: NDArray | None = None
