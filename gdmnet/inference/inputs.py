"""The cases that a user hands over: a folder of files, or one file."""

from __future__ import annotations

from pathlib import Path

from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import input_cases
from gdmnet.data.volume import FORMATS
from gdmnet.errors import DatasetError
from gdmnet.plan import Plan


def find_cases(inputs: Path, plan: Plan) -> list[CaseFiles]:
    """The cases of a folder of CASE_0000<ending> files, or the one case of a single file.

    The plan's file ending is preferred; a folder in one of the other formats is taken as well.

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
        name = inputs.name.removesuffix(ending).removesuffix("_0000")
        return [CaseFiles(name, (inputs,))]
    return input_cases(inputs, n_channels, _folder_ending(inputs, plan.file_ending))


def ending_of(path: Path) -> str:
    """The ending of an image file, one of `FORMATS`.

    Raises:
        DatasetError: another ending.
    """
    ending = next((ending for ending in FORMATS if path.name.endswith(ending)), None)
    if ending is None:
        raise DatasetError(f"{path}: unknown file ending; known are {', '.join(FORMATS)}")
    return ending


def _folder_ending(folder: Path, preferred: str) -> str:
    if not folder.is_dir():
        return preferred
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    there = [e for e in FORMATS if any(name.endswith(e) for name in names)]
    return there[0] if len(there) == 1 else preferred
