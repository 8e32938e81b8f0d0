"""The cases that a user hands over: a folder of files, a tree of DICOM series, or one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import ending_of, image_endings, stem_of
from gdmnet.data.dicom import holds_dicom
from gdmnet.data.raw import input_cases
from gdmnet.errors import DatasetError
from gdmnet.inference.dicom import dicom_cases
from gdmnet.plan import Plan


def find_cases(
    inputs: Path, plan: Plan, patterns: Sequence[str] = (), *, untilt: bool = False
) -> list[CaseFiles]:
    """The cases of a folder of CASE_0000<ending> files, of a DICOM tree, or of a single file.

    The plan's file ending is preferred; a folder in one of the other formats is taken as well.
    `patterns` and `untilt` are for a DICOM tree, as in `dicom_cases`.

    Raises:
        DatasetError: nothing there, or not what the model needs.
    """
    n_channels = len(plan.channel_names)
    if inputs.is_file():
        name = stem_of(inputs).removesuffix("_0000")
        if n_channels > 1:
            raise DatasetError(
                f"{inputs}: the model needs {n_channels} channels"
                f" ({', '.join(plan.channel_names)}); give a folder with one file a channel"
            )
        return [CaseFiles(name, (inputs,))]
    endings = image_endings(inputs) if inputs.is_dir() else set()
    if inputs.is_dir() and not endings and holds_dicom(inputs):
        return dicom_cases(inputs, plan, patterns, untilt=untilt)
    ending = endings.pop() if len(endings) == 1 else plan.file_ending
    return input_cases(inputs, n_channels, ending)


def output_name(case: CaseFiles, plan: Plan) -> str:
    """File name of a case's prediction: in the format of its source, for DICOM in the plan's."""
    ending = plan.file_ending if case.series else ending_of(case.sources[0])
    return f"{case.identifier}{ending}"
