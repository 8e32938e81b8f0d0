"""Which image files belong to a case: CASE_0000<ending> a source channel, CASE<ending> all else."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gdmnet import plan
from gdmnet.errors import DatasetError
from gdmnet.files import LONGEST_NAME, printable

FORMATS = plan.FORMATS
_FOREIGN = (
    *(".hdr", ".img", ".mgz", ".mgh", ".mhd", ".nhdr", ".mnc", ".gipl", ".nii.bz2", ".nii.xz"),
    *(".dcm", ".ima", ".tif", ".tiff"),
)
"""Endings of images that are not read; where others lie, they are not passed over in silence."""
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


@dataclass(frozen=True)
class MatchedCase:
    """The images of one case by the role of the folder they come from, such as "target"."""

    identifier: str
    images: Mapping[str, tuple[Path, ...]]  # in channel order; roles without one are left out

    def one(self, role: str) -> Path | None:
        """The file of a role that has one a case; None if it is not there."""
        return self.images[role][0] if role in self.images else None

    def others(self, role: str) -> list[Path]:
        """The files of all roles but one."""
        return [path for name, files in self.images.items() if name != role for path in files]


def match_cases(
    folders: Mapping[str, Path | None],
    *,
    leading: Collection[str],
    with_channels: Collection[str] = (),
) -> tuple[list[MatchedCase], dict[Path, list[str]]]:
    """Match the images of several folders by the names of their cases.

    Args:
        folders: role -> folder; None for a role that is not asked for.
        leading: roles whose images say which cases there are; folders of others may hold more.
        with_channels: roles whose files carry a channel number, CASE_0000<ending>; a case whose
            numbers have a gap is none.

    Returns:
        The cases, sorted by name, with what is there of each; and folder -> the cases that it has
        no image of, for folders that lack some.

    Raises:
        DatasetError: no such folder, no image in it, or a case in two formats.
    """
    found: dict[str, dict[str, tuple[Path, ...]]] = {}
    for role, folder in folders.items():
        if folder is not None and role in with_channels:
            found[role] = _channels_by_case(folder)
        elif folder is not None:
            found[role] = {name: (path,) for name, path in images_by_case(folder).items()}
    names = sorted({name for role in leading for name in found[role]})
    missing = {
        folders[role]: [name for name in names if name not in images]
        for role, images in found.items()
    }
    cases = [
        MatchedCase(name, {role: images[name] for role, images in found.items() if name in images})
        for name in names
    ]
    return cases, {folder: lacking for folder, lacking in missing.items() if folder and lacking}


def images_by_case(folder: Path) -> dict[str, Path]:
    """The images of a folder by file name without ending; other files are left alone.

    Raises:
        DatasetError: no such folder, no image in it, or a case in two formats.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for stem, path, why in look_through(folder):
        if why is not None:
            raise DatasetError(f"{printable(path)}: {why}")
        if stem in found:
            raise DatasetError(
                f"{path}: {found[stem].name} is the same image in another format; keep one"
            )
        found[stem] = path
    if not found:
        raise DatasetError(f"{folder}: no image here ({', '.join(FORMATS)})")
    return found


def _channels_by_case(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The images CASE_0000<ending>, ... of a folder by case, in their order; none with a gap."""
    channels: dict[str, dict[int, Path]] = {}
    for stem, path in images_by_case(folder).items():
        case, number = split_channel(stem)
        if number is not None:
            channels.setdefault(case, {})[number] = path
    if not channels:
        raise DatasetError(
            f"{folder}: no image called CASE_0000<ending> ({', '.join(FORMATS)}); sources carry"
            " their channel's number"
        )
    return {
        case: tuple(files[number] for number in range(len(files)))
        for case, files in channels.items()
        if max(files) < len(files)
    }


def look_through(folder: Path) -> Iterator[tuple[str, Path, str | None]]:
    """What looks like an image in a folder, sorted; hidden files are left out.

    Yields:
        Name without ending, path, and advice where it cannot be read, else None.
    """
    for path in sorted(folder.iterdir()):
        stem, dot, _ = path.name.partition(".")
        if stem and dot and path.name.lower().endswith(FORMATS + _FOREIGN):
            why = _why_not(path)
            yield stem if why else stem_of(path), path, why


def image_endings(folder: Path) -> set[str]:
    """The endings of the images in a folder that can be read."""
    return {ending_of(path) for _, path, why in look_through(folder) if why is None}


def _why_not(path: Path) -> str | None:
    """Why an entry of a folder is no image that can be read, and what to do."""
    if path.name != printable(path.name):
        return "the name has control characters, or bytes that are not UTF-8; rename it"
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        return f"the name is longer than {LONGEST_NAME} bytes; shorten it"
    if path.name.lower().endswith(_FOREIGN):
        return f"this format is not read; convert it to {FORMATS[0]}, or move it away"
    if path.is_symlink() and not path.exists():
        return "a link to a file that is not there; fetch the file, or remove the link"
    return None if path.is_file() else "is no file; move it away"


@contextmanager
def read_errors() -> Iterator[None]:
    """Raise a DatasetError that names the file for an OSError in the block."""
    try:
        yield
    except OSError as problem:
        raise DatasetError(f"{problem.filename}: cannot be read ({problem.strerror})") from None


def require_file(path: Path) -> None:
    """Complain about what is no plain file: missing, a folder, a named pipe or a device.

    Raises:
        DatasetError: it is none.
    """
    try:
        if path.is_file():
            return
        what = "is no plain file" if path.exists() and not path.is_dir() else "no such file"
    except (OSError, ValueError) as problem:  # a name too long, or with a zero byte
        what = f"cannot be a file ({problem})"
    raise DatasetError(f"{printable(path)}: {what}")


def split_channel(stem: str) -> tuple[str, int | None]:
    """Case and channel number of a file name without ending; None where it carries no number."""
    match = _CHANNEL.fullmatch(stem)
    return (stem, None) if match is None else (match[1], int(match[2]))


def ending_of(path: Path) -> str:
    """The ending of an image file, one of `FORMATS`, in whatever letters it is written.

    Raises:
        DatasetError: another ending.
    """
    for ending in FORMATS:
        if path.name.lower().endswith(ending):
            return ending
    raise DatasetError(f"{printable(path)}: unknown file ending; known are {', '.join(FORMATS)}")


def stem_of(path: Path) -> str:
    """The name of an image file without its ending, which `ending_of` may refuse."""
    return path.name[: -len(ending_of(path))]
