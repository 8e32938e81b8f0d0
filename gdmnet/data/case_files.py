"""Which image files belong to a case: CASE_0000<ending> a source channel, CASE<ending> all else."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gdmnet.errors import DatasetError

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""File endings that can be read and written."""
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class MatchedCase:
    """The images of one case by the role of the folder they come from, such as "target".

    Attributes:
        identifier: name of the case.
        images: role -> files in channel order; a role without a file of this case is left out.
    """

    identifier: str
    images: Mapping[str, tuple[Path, ...]]

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
        leading: roles whose images say which cases there are. The folders of other roles may hold
            more.
        with_channels: roles whose files carry a channel number, CASE_0000<ending>.

    Returns:
        The cases, sorted by name, with what is there of each; and folder -> the cases that it has
        no image of, for folders that lack some.

    Raises:
        DatasetError: no such folder, no image in it, or a case in two formats.
    """
    found: dict[str, dict[str, tuple[Path, ...]]] = {}
    for role, folder in folders.items():
        if folder is not None and role in with_channels:
            found[role] = channels_by_case(folder)
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
    for stem, _, path in iterate_images(folder):
        if stem in found:
            raise DatasetError(
                f"{path}: {found[stem].name} is the same image in another format; keep one"
            )
        found[stem] = path
    if not found:
        raise DatasetError(f"{folder}: no image here ({', '.join(FORMATS)})")
    return found


def channels_by_case(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The images CASE_0000<ending>, CASE_0001<ending>, ... of a folder by case, in channel order.

    Raises:
        DatasetError: no such folder, no image in it, or none with a channel number.
    """
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
    return {case: in_order(files) for case, files in channels.items()}


def iterate_images(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Name without ending, ending and path of each image file, sorted; hidden ones are left out."""
    for path in sorted(folder.iterdir()):
        if path.name.endswith(FORMATS) and not path.name.startswith(".") and path.is_file():
            ending = ending_of(path)
            yield path.name.removesuffix(ending), ending, path


def split_channel(stem: str) -> tuple[str, int | None]:
    """Case and channel number of a file name without ending; None where it carries no number."""
    match = _CHANNEL.fullmatch(stem)
    return (stem, None) if match is None else (match[1], int(match[2]))


def in_order(channels: Mapping[int, Path]) -> tuple[Path, ...]:
    """The files of numbered channels, in the order of their numbers."""
    return tuple(channels[number] for number in sorted(channels))


def ending_of(path: Path) -> str:
    """The ending of an image file, one of `FORMATS`.

    Raises:
        DatasetError: another ending.
    """
    for ending in FORMATS:
        if path.name.endswith(ending):
            return ending
    raise DatasetError(f"{path}: unknown file ending; known are {', '.join(FORMATS)}")
