"""DICOM at both ends of a prediction: series as cases, and predictions as CT series."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gdmnet.arrays.normalise import scheme_of
from gdmnet.data.case import CaseFiles, Series, Volume
from gdmnet.data.dicom import case_name, find_series, grid_of, is_fitting, only_series
from gdmnet.data.dicom_out import GRIDS, Maker, require_template, write_ct_series
from gdmnet.data.regrid import share_inside
from gdmnet.data.volume import read_geometry, read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference
from gdmnet.inference.translator import Translator
from gdmnet.parallel import progress_bar
from gdmnet.plan import Plan

_log = logging.getLogger(__name__)

SUFFIX = "_dicom"  # of the folder of a case's CT series
_MOST_INSIDE = 0.5  # share of the image that must lie in its template: else it is another scan


def dicom_cases(
    folder: Path,
    plan: Plan,
    patterns: Sequence[str] = (),
    *,
    untilt: bool = False,
    nested: bool = True,
) -> list[CaseFiles]:
    """One case a study of a tree of DICOM series: the series that the model takes, a channel each.

    Which series is which channel say the patterns, or else those by which the training data were
    found. Where neither is known, a model that takes CT gets the CT series, and any other model of
    one channel the series that is no CT. A study in which several series fit, or which lacks a
    channel, and series that are no sound stack, become cases, too: they fail with their reason.

    The patterns are as in `is_fitting`, one a channel, () for the plan's; `untilt` is as in
    `find_series`; if not `nested`, only series in the folder itself are taken.

    Raises:
        DatasetError: nothing says which series is which channel, or nothing fits.
    """
    names, patterns = plan.channel_names, tuple(patterns) or plan.source_series
    if len(patterns) != len(names) and (patterns or len(names) > 1):
        raise DatasetError(
            f"{folder}: the model takes {len(names)} channels ({', '.join(names)}); name the DICOM"
            f" series of each by --source, a pattern a channel (given: {len(patterns)}), or give"
            " CASE_0000.nii.gz, CASE_0001.nii.gz, ..."
        )
    tree = find_series(folder, untilt=untilt)
    studies: dict[tuple[str, str], list[Series]] = {}
    for series in tree.series:
        if nested or series.folder == folder:
            studies.setdefault((series.patient, series.study), []).append(series)
    cases: dict[str, CaseFiles] = {}
    for found in studies.values():
        channels = [
            [s for s in found if _is_taken(s, plan, pattern)] for pattern in patterns or [""]
        ]
        if any(channels):
            cases |= {case.identifier: case for case in _study_cases(channels, patterns)}
    left = len(tree.series) - sum(len(case.series) for case in cases.values())
    _log.info("%s%s", tree, f"; {left} that the model does not take" if left else "")
    if not cases:
        raise DatasetError(
            f"{folder}: no series for a model that takes {' and '.join(patterns or names)} ({tree})"
        )
    for name, case in sorted(cases.items()):
        for series in case.series:
            where = series.folder.relative_to(folder)
            _log.info("%s: %s, %d images in %s", name, series.label, len(series.files), where)
    return [case for _, case in sorted(cases.items())]


def _is_taken(series: Series, plan: Plan, pattern: str) -> bool:
    if pattern:
        return is_fitting(series, pattern)
    takes_ct = scheme_of(plan.channel_names[0], target=False) == "ct"
    return (series.modality == "CT") == takes_ct


def _study_cases(
    channels: Sequence[Sequence[Series]], patterns: Sequence[str]
) -> Iterator[CaseFiles]:
    """The case of one study; what cannot be told apart as cases that are refused."""
    every = list(dict.fromkeys(series for fitting in channels for series in fitting))
    unclear = next((fitting for fitting in channels if len(fitting) != 1), None)
    if unclear:
        listed = ", ".join(series.label for series in unclear)
        reason = f"{len(unclear)} series of one study fit the model ({listed})"
    elif unclear is not None:
        reason = f"no series of its study fits {patterns[channels.index(unclear)]!r}"
    elif len(every) < len(channels):
        reason = "one series of its study fits several channels"
    else:
        yield CaseFiles(case_name(every[0]), (), series=tuple(every))
        return
    for series in every:
        refused = replace(series, geometry=None, problem=f"{reason}; name one by --source")
        yield CaseFiles(case_name(series), (), series=(refused,))


def find_templates(
    cases: Sequence[CaseFiles], translator: Translator, template: Path | None
) -> dict[str, Series]:
    """Case -> the series whose patient, study and frame its CT series will take.

    The template is the folder of that series for input that is not DICOM.

    Raises:
        DatasetError: the model makes no CT, or a template is missing, superfluous or of another
            scan.
    """
    translator.require_ct("--dicom-out")
    series = {case.identifier: case.series[0] for case in cases if case.series}
    if template is not None:
        if series or len(cases) != 1:
            raise DatasetError(
                f"{template}: a template is for one image that is not DICOM, but the input"
                f" has {len(series)} series and {len(cases) - len(series)} other images"
            )
        series[cases[0].identifier] = _template_of(cases[0], template)
    if not series:
        raise DatasetError(
            "--dicom-out: the input is not DICOM and names no patient; give the series that it was"
            " made from by --dicom-template"
        )
    for found in series.values():
        require_template(found)
    return series


def write_series(
    translator: Translator,
    predictions: Mapping[str, Path],
    templates: Mapping[str, Series],
    *,
    grid: str,
    keep: Collection[str] = (),
) -> list[Path]:
    """Write predictions, case -> file, as CT series beside them; the folders, CASE_dicom.

    The grid is a name in `GRIDS`. Of cases to keep, a series that is there on this grid stays.

    Raises:
        DatasetError: a prediction cannot be read.
        OutputError: a folder cannot be written.
    """
    card, folders = translator.card, []
    weights = ", ".join(f"{fold} {digest[:12]}" for fold, digest in card.checkpoints.items())
    maker = Maker(
        model=f"{translator.plan.dataset} {card.objective}__{card.configuration}",
        details=f"Folds and SHA-256 of their {card.settings.checkpoint} checkpoints: {weights}",
    )
    for name, path in progress_bar(predictions.items(), "DICOM"):
        folder = path.parent / f"{name}{SUFFIX}"
        folders.append(folder)
        template, geometry = templates[name], read_geometry(path)
        if grid_difference(geometry, grid_of(template)) is None:
            geometry = grid_of(template)  # NIfTI has rounded it to float32
        if name in keep and folder.exists():
            there = only_series(folder).geometry
            if there and grid_difference(there, GRIDS[grid](geometry)) is None:
                continue
        volume = Volume(read_volume(path).array, geometry)
        write_ct_series(folder, volume, template, maker, grid=grid)
    return folders


def _template_of(case: CaseFiles, folder: Path) -> Series:
    series = only_series(folder)
    if share_inside(read_geometry(case.sources[0]), grid_of(series)) < _MOST_INSIDE:
        raise DatasetError(
            f"{folder}: {case.sources[0].name} does not lie where this series does; give the series"
            " that it was made from"
        )
    return series
