"""A raw dataset on disk: dataset.json and the files of every case, matched by case name."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from gdmnet.codec import read_json, save
from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import FORMATS, ending_of, image_endings, look_through, split_channel
from gdmnet.errors import DatasetError
from gdmnet.files import printable
from gdmnet.folders import DATASET_JSON
from gdmnet.plan import Region

_KEYS = ("channel_names", "target_name", "file_ending", "numTraining")
REGION, SOURCE_SERIES = "region_of_interest", "source_series"
T = TypeVar("T")


@dataclass(frozen=True)
class Description:
    """What dataset.json says; `metadata` holds the keys that gdmnet does not read.

    `source_series` are the patterns, one a channel, that found the sources among DICOM series.
    """

    channel_names: tuple[str, ...]
    target_name: str
    file_ending: str
    n_training: int
    metadata: dict[str, Any] = field(default_factory=dict)
    region: Region = "body"
    source_series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with a dataset: which case, which file, what and what to do."""

    case: str
    file: str
    text: str

    def __str__(self) -> str:
        place = f"{self.case}, {self.file}" if self.case else self.file
        return printable(f"{place}: {self.text}")


def read_description(dataset_folder: Path) -> Description:
    """The contents of a raw dataset's dataset.json.

    Raises:
        DatasetError: the file is missing or broken; the key is named.
    """
    path = dataset_folder / DATASET_JSON
    data = read_json(path, DatasetError)
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected an object with the keys {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if key not in data]
    if "target_name" in missing and "labels" in data:
        raise DatasetError(
            f'{path}: is nnU-Net\'s; write "target_name": "CT" in place of "labels", and rename'
            " labelsTr to targetsTr (labelsTs to targetsTs)"
        )
    if missing:
        raise DatasetError(f"{path}: the key {missing[0]} is missing; add it")
    read = (*_KEYS, REGION, SOURCE_SERIES)
    try:
        channels = _channel_names(data["channel_names"])
        return Description(
            channel_names=channels,
            target_name=_target_name(data["target_name"]),
            file_ending=_one_of("file_ending", data["file_ending"], FORMATS),
            n_training=_n_training(data["numTraining"]),
            metadata={key: value for key, value in data.items() if key not in read},
            region=_one_of(REGION, data.get(REGION, "body"), get_args(Region)),
            source_series=_patterns(data.get(SOURCE_SERIES), len(channels)),
        )
    except DatasetError as problem:
        raise DatasetError(f"{path}: {problem}") from None


def write_description(dataset_folder: Path, description: Description) -> None:
    """Write a dataset.json: the last file of a dataset, so that what has one is whole.

    Raises:
        OutputError: the folder cannot be written.
    """
    data = {
        "channel_names": {str(i): name for i, name in enumerate(description.channel_names)},
        "target_name": description.target_name,
        "file_ending": description.file_ending,
        "numTraining": description.n_training,
        **({} if description.region == "body" else {REGION: description.region}),
        **({SOURCE_SERIES: description.source_series} if description.source_series else {}),
        **description.metadata,
    }
    save(data, dataset_folder / DATASET_JSON)


def files_to_write(
    dataset_folder: Path, part: str, identifier: str, description: Description
) -> CaseFiles:
    """Where the files of a new case of the part "Tr" (training) or "Ts" (test) shall lie."""
    ending, images = description.file_ending, dataset_folder / f"images{part}"
    channels = range(len(description.channel_names))
    return CaseFiles(
        identifier,
        tuple(images / f"{identifier}_{channel:04d}{ending}" for channel in channels),
        target=dataset_folder / f"targets{part}" / f"{identifier}{ending}",
        mask=dataset_folder / f"masks{part}" / f"{identifier}{ending}",
    )


def _channel_names(value: object) -> tuple[str, ...]:
    advice = 'write {"0": "T1"} with one entry a channel, numbered from 0'
    if isinstance(value, dict):
        numbers = [str(i) for i in range(len(value))]
        if set(value) != set(numbers):
            raise DatasetError(f"channel_names has the keys {', '.join(value)}; {advice}")
        value = [value[number] for number in numbers]
    if not isinstance(value, list) or not value:
        raise DatasetError(f"channel_names must name at least one channel; {advice}")
    if not all(map(is_name, value)):
        raise DatasetError(f"channel_names must hold short names of one line; {advice}")
    return tuple(value)


def _target_name(value: object) -> str:
    if isinstance(value, (list, dict)):
        raise DatasetError(
            f"target_name is {'a list' if isinstance(value, list) else 'an object'}, but exactly"
            ' one target channel is supported; write one name, for example "CT", and make a dataset'
            " for each target"
        )
    if not is_name(value):
        raise DatasetError('target_name must be a short name of one line, for example "CT"')
    return str(value)


def is_name(value: object) -> bool:
    """Whether a channel or a target may be called so: one line, at most 100 characters."""
    return isinstance(value, str) and 0 < len(value.strip()) <= 100 and value.isprintable()


def _one_of(key: str, value: Any, names: Sequence[T]) -> T:  # noqa: ANN401 (of JSON)
    if value not in names:
        raise DatasetError(f"{key} is {value!r}, but must be one of {', '.join(map(str, names))}")
    return names[names.index(value)]


def _patterns(value: object, n_channels: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not (isinstance(value, list) and len(value) == n_channels):
        raise DatasetError(f"{SOURCE_SERIES} must be a list of one pattern a channel")
    if not all(isinstance(pattern, str) and pattern for pattern in value):
        raise DatasetError(f'{SOURCE_SERIES} must hold patterns such as "MR*t1*"')
    return tuple(value)


def _n_training(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DatasetError(f"numTraining is {value!r}, but must be the number of training cases")
    return value


def training_cases(
    folder: Path, description: Description
) -> tuple[list[CaseFiles], list[Complaint]]:
    """The cases of imagesTr with their targets (targetsTr) and masks (masksTr, if it has files).

    Returns:
        The cases, sorted by name, and what is wrong. A case that a complaint names may lack files.
    """
    cases, complaints = _cases(folder, description, "Tr", target_needed=True)
    if cases and len(cases) != description.n_training:
        complaints.append(
            Complaint(
                "",
                DATASET_JSON,
                f"numTraining is {description.n_training}, but imagesTr has {len(cases)} cases;"
                " correct the number, or add what is missing",
            )
        )
    return cases, complaints


def test_cases(folder: Path, description: Description) -> tuple[list[CaseFiles], list[Complaint]]:
    """The same for imagesTs, targetsTs and masksTs, all optional."""
    others = (place for what in ("targets", "masks") if (place := folder / f"{what}Ts").is_dir())
    if not (folder / "imagesTs").is_dir() and not any(map(image_endings, others)):
        return [], []
    return _cases(folder, description, "Ts", target_needed=False)


def input_cases(folder: Path, n_channels: int, file_ending: str) -> list[CaseFiles]:
    """The cases of a folder of CASE_0000<ending> files, one a channel, sorted by name.

    Raises:
        DatasetError: no such folder, nothing in it, a file or a case that does not fit.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the folder of the input images")
    channels, complaints = _sources(folder, n_channels, file_ending)
    if not complaints:
        return [CaseFiles(case, files) for case, files in channels.items()]
    first, more = complaints[0], len(complaints) - 1
    rest = f" (and {more} more such files or cases)" if more else ""
    wrong = {complaint.case for complaint in complaints} - {""}
    known = wrong | set(channels)
    count = f"{len(known - wrong)} of {len(known)} cases can be used; " if known else ""
    said = first.text if first.file == folder.name else str(first)
    raise DatasetError(f"{folder}: {count}{said}{rest}")


def place_of(path: Path) -> str:
    """A file of a dataset as complaints name it: imagesTr/CASE_0000.nii.gz."""
    return printable(f"{path.parent.name}/{path.name}".removeprefix("/"))


def _cases(
    folder: Path, description: Description, suffix: str, *, target_needed: bool
) -> tuple[list[CaseFiles], list[Complaint]]:
    ending, n_channels = description.file_ending, len(description.channel_names)
    images, targets, masks = (folder / f"{what}{suffix}" for what in ("images", "targets", "masks"))
    sources, complaints = _sources(images, n_channels, ending)
    wanted, wrong = _partners(targets, "target", sources, ending, needed=target_needed)
    given, also_wrong = _partners(masks, "mask", sources, ending, needed=False)
    cases = [
        CaseFiles(case, files, target=wanted.get(case), mask=given.get(case))
        for case, files in sources.items()
    ]
    return cases, complaints + wrong + also_wrong


def _scan(folder: Path, ending: str) -> tuple[dict[str, Path], list[Complaint]]:
    """The images of a folder by their name without the ending; and those that cannot be used."""
    if not folder.is_dir():
        return {}, []
    found: dict[str, Path] = {}
    wrong = []
    for stem, path, why in look_through(folder):
        if why is None and ending_of(path) != ending:
            why = f"the file ending is not {ending}; convert the file, or move it away"
        elif why is None and found.setdefault(stem, path) != path:
            why = f"{found[stem].name} has the same name; keep one"
        if why is not None:
            wrong.append(Complaint(printable(split_channel(stem)[0]), place_of(path), why))
    return found, wrong


def _sources(
    folder: Path, n_channels: int, ending: str
) -> tuple[dict[str, tuple[Path, ...]], list[Complaint]]:
    """Case name -> its source channels, sorted by name; what is missing is complained about."""
    stems, complaints = _scan(folder, ending)
    cases: dict[str, dict[int, Path]] = {}
    for stem, path in stems.items():
        case, number = split_channel(stem)
        if number is None or (number >= n_channels and f"{case}_0000" not in stems):
            text = f"the channel number is missing; rename it to {stem}_0000{ending}"
            complaints.append(Complaint(stem, place_of(path), text))
        else:
            cases.setdefault(case, {})[number] = path
    if not cases and not (folder.is_dir() and image_endings(folder)):
        there = {"".join(p.suffixes[-2:]) or p.name for p in folder.glob("[!.]*") if p.is_file()}
        found = f"it holds {', '.join(sorted(there)[:5])} files" if there else "it is empty"
        if not folder.is_dir():
            found = "the folder is missing"
        text = f"no image CASE_0000{ending} here ({found}); put the images there"
        complaints.insert(0, Complaint("", folder.name, text))
    for case, files in sorted(cases.items()):
        for number in sorted({*range(n_channels)} ^ {*files}):
            name = f"{folder.name}/{case}_{number:04d}{ending}"
            text = f"this channel is missing ({n_channels} are expected); add the file"
            if number in files:
                name = place_of(files[number])
                text = (
                    f"one channel too many: {n_channels} expected, numbered from 0000; remove the"
                    " file, or name the channel in dataset.json"
                )
            complaints.append(Complaint(case, name, text))
    return {
        case: tuple(path for _, path in sorted(files.items()))
        for case, files in sorted(cases.items())
    }, complaints


def _partners(
    folder: Path, what: str, cases: Collection[str], ending: str, *, needed: bool
) -> tuple[dict[str, Path], list[Complaint]]:
    """Targets or masks by case name; a folder that holds any must hold one for every case."""
    stems, complaints = _scan(folder, ending)
    for stem in sorted(set(stems) - set(cases)):
        text = _stranger(stem, what, cases, ending)
        complaints.append(Complaint(stem, place_of(stems[stem]), text))
    if stems or needed:
        for case in sorted(set(cases) - set(stems)):
            text = f"the {what} of this case is missing; add the file"
            complaints.append(Complaint(case, f"{folder.name}/{case}{ending}", text))
    return stems, complaints


def _stranger(stem: str, what: str, cases: Collection[str], ending: str) -> str:
    case, number = split_channel(stem)
    for twin in cases:
        if unicodedata.normalize("NFC", twin) == unicodedata.normalize("NFC", stem):
            return (
                f"its name looks like that of case {twin}, but is written in other bytes (Unicode"
                " NFC and NFD, as copies from a Mac are); rename one of the two"
            )
    if number is None or case not in cases:
        return f"no image belongs to this {what}; remove it, or add {stem}_0000{ending}"
    if what == "target" and number > 0:
        return (
            "exactly one target channel is supported; keep one, named"
            f" {case}{ending}, and make a dataset for each target"
        )
    return f"a {what} carries no channel number; rename it to {case}{ending}"
