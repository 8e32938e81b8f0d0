"""DICOM at both ends of a prediction: series as cases, and predictions as CT series."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.arrays.normalise import scheme_of
from gdmnet.data.case import CaseFiles, Series, Volume
from gdmnet.data.dicom import case_name, find_series, grid_of, only_series
from gdmnet.data.dicom_out import Maker, require_template, write_ct_series
from gdmnet.data.regrid import share_inside
from gdmnet.data.volume import read_geometry, read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference
from gdmnet.inference.translator import Translator
from gdmnet.plan import Plan

_log = logging.getLogger(__name__)

SUFFIX = "_dicom"  # of the folder of a case's CT series
_MOST_INSIDE = 0.5  # share of the image that must lie in its template: else it is another scan


@dataclass(frozen=True)
class Export:
    """How predictions become CT series.

    Attributes:
        grid: a name in `data.dicom_out.GRIDS`.
        template: folder of the series whose patient, study and frame the result takes, for input
            that is not DICOM.
    """

    grid: str = "axial"
    template: Path | None = None


def dicom_cases(folder: Path, plan: Plan) -> list[CaseFiles]:
    """Each series of a tree that fits the model is a case, called by `case_name`.

    A model that takes CT gets the CT series, any other model all series but those. Series that are
    no sound stack become cases, too: they fail with their reason, and the others go on.

    Raises:
        DatasetError: the model takes several channels, or nothing fits.
    """
    if len(plan.channel_names) > 1:
        raise DatasetError(
            f"{folder}: holds DICOM, but the model takes {len(plan.channel_names)} channels"
            f" ({', '.join(plan.channel_names)}) and nothing says which series is which; give"
            " CASE_0000.nii.gz, CASE_0001.nii.gz, ..."
        )
    takes_ct = scheme_of(plan.channel_names[0], target=False) == "ct"
    tree = find_series(folder)
    fitting = {case_name(s): s for s in tree.series if (s.modality == "CT") == takes_ct}
    left = len(tree.series) - len(fitting)
    _log.info("%s%s", tree, f"; {left} of another modality than the model's" if left else "")
    if not fitting:
        raise DatasetError(
            f"{folder}: no series for a model that takes {plan.channel_names[0]} ({tree})"
        )
    for name, series in sorted(fitting.items()):
        where = series.folder.relative_to(folder)
        _log.info("%s: %s, %d images in %s", name, series.label, len(series.files), where)
    return [CaseFiles(name, (), series=(series,)) for name, series in sorted(fitting.items())]


def find_templates(
    cases: Sequence[CaseFiles], translator: Translator, export: Export
) -> dict[str, Series]:
    """Case -> the series whose patient, study and frame its CT series will take.

    Raises:
        DatasetError: the model makes no CT, or a template is missing, superfluous or of another
            scan.
    """
    if translator.configuration.target.scheme != "ct":
        raise DatasetError(
            f"--dicom-out writes CT in Hounsfield units, but the model makes"
            f" {translator.plan.target_name}"
        )
    series = {case.identifier: case.series[0] for case in cases if case.series}
    if export.template is not None:
        if series or len(cases) != 1:
            raise DatasetError(
                f"{export.template}: a template is for one image that is not DICOM, but the input"
                f" has {len(series)} series and {len(cases) - len(series)} other images"
            )
        series[cases[0].identifier] = _template_of(cases[0], export.template)
    if not series:
        raise DatasetError(
            "--dicom-out: the input is not DICOM and names no patient; give the series that it was"
            " made from by --dicom-template"
        )
    for template in series.values():
        require_template(template)
    return series


def write_series(
    translator: Translator,
    predictions: Mapping[str, Path],
    templates: Mapping[str, Series],
    *,
    grid: str,
    keep: Collection[str] = (),
) -> list[Path]:
    """Write predictions that lie in files as CT series beside them.

    Args:
        translator: that made them.
        predictions: case -> file.
        templates: from `find_templates`.
        grid: a name in `data.dicom_out.GRIDS`.
        keep: cases whose series is kept if it is there.

    Returns:
        The folders, CASE_dicom.

    Raises:
        DatasetError: a prediction cannot be read.
        OutputError: a folder cannot be written.
    """
    folders = []
    for name, path in predictions.items():
        folder = path.parent / f"{name}{SUFFIX}"
        folders.append(folder)
        if name not in keep or not folder.exists():
            volume, template = read_volume(path), templates[name]
            own = grid_of(template)
            if grid_difference(volume.geometry, own) is None:
                volume = Volume(volume.array, own)  # NIfTI has rounded it to float32
            write_ct_series(folder, volume, template, maker_of(translator), grid=grid)
    return folders


def maker_of(translator: Translator) -> Maker:
    """What a series says about the model."""
    card = translator.card
    weights = ", ".join(f"{fold} {digest[:12]}" for fold, digest in card.checkpoints.items())
    return Maker(
        model=f"{translator.plan.dataset} {card.objective}__{card.configuration}",
        details=f"Folds and SHA-256 of their {card.settings.checkpoint} checkpoints: {weights}",
    )


def _template_of(case: CaseFiles, folder: Path) -> Series:
    series = only_series(folder)
    if share_inside(read_geometry(case.sources[0]), grid_of(series)) < _MOST_INSIDE:
        raise DatasetError(
            f"{folder}: {case.sources[0].name} does not lie where this series does; give the series"
            " that it was made from"
        )
    return series
