"""After a prediction, a few iterations on the line integrals that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.dicom import read_sources
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference
from gdmnet.inference.translator import Translator
from gdmnet.tomography.consistency import data_consistent
from gdmnet.tomography.scan import FOLDER, load_acquisition, load_sinogram


def with_data_consistency(
    translator: Translator, cases: Sequence[CaseFiles], sinograms: Path | None = None
) -> Translator:
    """The same translator, whose predictions are made to agree with the measured views.

    A record CASE.json and a sinogram CASE.npz of each case must lie in `sinograms`; None is the
    folder simulation beside that of the images, as gdm_simulate_sparse_view --keep-sinograms
    leaves it.

    Raises:
        DatasetError: the target is no CT, or a file is missing.
    """
    translator.require_ct("--data-consistency")
    for case in cases:
        for path in _files(case, sinograms):
            if not path.is_file():
                raise DatasetError(
                    f"{path}: file not found; simulate with --keep-sinograms, or name the folder"
                    " of the sinograms by --sinograms"
                )
    channel = translator.configuration.residual_channel
    return replace(
        translator,
        card=replace(translator.card, data_consistency=True),
        finishing=partial(_finish, sinograms=sinograms, channel=channel),
    )


def _finish(
    files: CaseFiles, prediction: Volume, *, sinograms: Path | None, channel: int | None
) -> Volume:
    record, measured = _files(files, sinograms)
    acquisition = load_acquisition(record)
    difference = grid_difference(acquisition.grid, prediction.geometry)
    if difference is not None:
        raise DatasetError(f"{record}: not on the grid of the image: {difference}")
    volume = data_consistent(
        prediction.array[0],
        load_sinogram(measured, acquisition),
        acquisition,
        outside=None if channel is None else read_sources(files).array[channel],
    )
    return Volume(volume[None], prediction.geometry)


def _files(case: CaseFiles, sinograms: Path | None) -> tuple[Path, Path]:
    """Where the record and the sinogram of a case lie."""
    if sinograms is None:
        if not case.sources:
            raise DatasetError(
                "--data-consistency: name the folder of the sinograms by --sinograms"
            )
        sinograms = case.sources[0].parent.parent / FOLDER
    return sinograms / f"{case.identifier}.json", sinograms / f"{case.identifier}.npz"
