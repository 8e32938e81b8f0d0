"""The cases that a user hands over: a folder of files, a tree of DICOM series, or one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import ending_of, iterate_images, stem_of
from gdmnet.data.dicom import holds_dicom, series_sha256
from gdmnet.data.raw import input_cases
from gdmnet.errors import DatasetError
from gdmnet.files import file_sha256
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
        ending = ending_of(inputs)
        if n_channels > 1:
            raise DatasetError(
                f"{inputs}: the model needs {n_channels} channels"
                f" ({', '.join(plan.channel_names)}); give a folder with one file a channel"
            )
        name = stem_of(inputs).removesuffix("_0000")
        return [CaseFiles(name, (inputs,))]
    images = iterate_images(inputs) if inputs.is_dir() else ()
    endings = {ending for _, ending, _ in images}
    if inputs.is_dir() and not endings and holds_dicom(inputs):
        return dicom_cases(inputs, plan, patterns, untilt=untilt)
    ending = endings.pop() if len(endings) == 1 else plan.file_ending
    return input_cases(inputs, n_channels, ending)


def output_name(case: CaseFiles, plan: Plan) -> str:
    """File name of a case's prediction: in the format of its source, for DICOM in the plan's."""
    ending = plan.file_ending if case.series else ending_of(case.sources[0])
    return f"{case.identifier}{ending}"


def source_states(case: CaseFiles) -> list[tuple[int, ...]]:
    """What changes with any source file: its number, size and times.

    Raises:
        DatasetError: a file cannot be read.
    """
    paths = (*case.sources, *(path for series in case.series for path in series.files))
    try:
        stats = [path.stat() for path in paths]
    except OSError as problem:
        raise DatasetError(f"{problem.filename}: cannot be read ({problem.strerror})") from None
    return [(s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]


def source_digests(case: CaseFiles) -> dict[str, str]:
    """Name -> SHA-256 of each source; a series is called as the file of its channel would be.

    Raises:
        DatasetError: a file cannot be read.
    """
    series = {f"{case.identifier}_{i:04d}": item for i, item in enumerate(case.series)}
    try:
        return {path.name: file_sha256(path) for path in case.sources} | {
            name: series_sha256(item) for name, item in series.items()
        }
    except OSError as problem:
        raise DatasetError(f"{problem.filename}: cannot be read ({problem.strerror})") from None
