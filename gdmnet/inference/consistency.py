"""After a prediction, a few iterations on the line integrals that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.dicom import read_sources
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference
from gdmnet.tomography.consistency import data_consistent
from gdmnet.tomography.scan import FOLDER, load_acquisition, load_sinogram


@dataclass(frozen=True)
class DataConsistency:
    """Makes the predictions of cases agree with their measured views."""

    sinograms: Path | None  # folder of CASE.json and CASE.npz
    channel: int | None  # of the source that is right where no view looked

    def files(self, case: CaseFiles) -> tuple[Path, Path]:
        """Where the record and the sinogram of a case lie."""
        folder = self.sinograms
        if folder is None:
            if not case.sources:
                raise DatasetError(
                    "--data-consistency: name the folder of the sinograms by --sinograms"
                )
            folder = case.sources[0].parent.parent / FOLDER
        return folder / f"{case.identifier}.json", folder / f"{case.identifier}.npz"

    def apply(self, case: CaseFiles, prediction: Volume) -> Volume:
        """A prediction (1, z, y, x) in HU, after a few iterations on the case's line integrals."""
        record, measured = self.files(case)
        acquisition = load_acquisition(record)
        difference = grid_difference(acquisition.grid, prediction.geometry)
        if difference is not None:
            raise DatasetError(f"{record}: not on the grid of the image: {difference}")
        volume = data_consistent(
            prediction.array[0],
            load_sinogram(measured, acquisition),
            acquisition,
            outside=None if self.channel is None else read_sources(case).array[self.channel],
        )
        return Volume(volume[None], prediction.geometry)


def find_data_consistency(
    cases: Sequence[CaseFiles], sinograms: Path | None, channel: int | None
) -> DataConsistency:
    """What makes the predictions of these cases agree with their measured views.

    A record CASE.json and a sinogram CASE.npz of each case must lie in `sinograms`; None is the
    folder simulation beside that of the images, as gdm_simulate_sparse_view --keep-sinograms
    leaves it.

    Raises:
        DatasetError: a file is missing.
    """
    found = DataConsistency(sinograms, channel)
    for case in cases:
        for path in found.files(case):
            if not path.is_file():
                raise DatasetError(
                    f"{path}: file not found; simulate with --keep-sinograms, or name the folder"
                    " of the sinograms by --sinograms"
                )
    return found
