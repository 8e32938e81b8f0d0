"""Which image of one folder belongs to which of another: by name, never by order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import reduce
from itertools import compress, takewhile
from pathlib import Path

from gdmnet.data.case_files import images_by_case, split_channel
from gdmnet.datasets.conversion import CaseImages
from gdmnet.errors import DatasetError

EXACT, BY_WORDS = "same name", "same but for words that all share"
_WORD = re.compile(r"[^\W\d_]+|\d+")
_UNFIT = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class MatchedPairs:
    """Pairs by name, and what is left over."""

    cases: tuple[CaseImages, ...]  # sorted by name
    rules: dict[str, str]  # how each case was found: `EXACT` or `BY_WORDS`
    lonely: tuple[Path, ...]  # images without all their partners


def match_folders(
    sources: Sequence[Path], targets: Path, masks: Path | None = None
) -> MatchedPairs:
    """Match the images of several folders.

    1. `EXACT`: names are equal but for the ending and a channel number (_0000).
    2. `BY_WORDS`: what is left is equal once the words that all names of a folder share are taken
       away, numbers without leading zeros: sub-01_T1w and sub-01_CT, MR_7 and CT_007. The order of
       the words counts: sub-01_ses-02 is not sub-02_ses-01, and 1A is not A1.

    Raises:
        DatasetError: a folder is missing or empty, holds an image in two formats, or nothing
            matches.
    """
    images = [_images(folder) for folder in (*sources, targets, masks) if folder]
    exact = _common(images)
    by_words = _common([_by_words(there, without=exact) for there in images])
    cases, rules = [], {}
    for rule, found in ((EXACT, exact), (BY_WORDS, by_words)):
        names = _names(found, rule)
        for key, paths in found.items():
            mask = paths[-1] if masks else None
            case = CaseImages(names[key], tuple(paths[: len(sources)]), paths[len(sources)], mask)
            cases.append(case)
            rules[case.identifier] = rule
    if len(rules) < len(cases):
        raise DatasetError(f"{targets}: two cases would have the same name; rename the files")
    if not cases:
        raise DatasetError(
            f"{sources[0]} and {targets}: no name of one fits one of the other; give both images"
            " of a patient the same name"
        )
    matched = {path for case in cases for path in case.images}
    lonely = tuple(path for there in images for path in there.values() if path not in matched)
    return MatchedPairs(tuple(sorted(cases, key=lambda case: case.identifier)), rules, lonely)


def patient_of(case: str) -> str:
    """The patient of a case: sub-01 of sub-01_ses-02, as BIDS has it; else the case itself."""
    match = re.match(r"sub-[^_]+", case)
    return match[0] if match else case


def _images(folder: Path) -> dict[str, Path]:
    """Name without ending, and without the channel number that all end with -> file."""
    found = images_by_case(folder)
    split = [split_channel(stem) for stem in found]
    if len({number for _, number in split}) > 1 or split[0][1] is None:
        return found
    return {case: path for (case, _), path in zip(split, found.values(), strict=True)}


def _by_words(images: Mapping[str, Path], *, without: Collection[str]) -> dict[str, Path]:
    """What tells the images of a folder apart -> file; images that nothing tells apart are left."""
    words = {
        stem: [word.lstrip("0") or "0" for word in _WORD.findall(stem.casefold())]
        for stem in images
    }
    keys = {stem: " ".join(own) for stem, own in _without_shared(words).items()}
    n_with = Counter(keys.values())
    return {
        key: images[stem]
        for stem, key in keys.items()
        if key and n_with[key] == 1 and stem not in without
    }


def _without_shared(words: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The words of each name in their order, but for those that all names share.

    Names of one pattern share what is equal at one place: the 1 in sub-01_T1w is not that of T1.
    Where their lengths differ, they share a beginning, an end, and the words that each has equally
    often between these.
    """
    names = list(words.values())
    if len({len(own) for own in names}) == 1:
        differs = [len(set(column)) > 1 for column in zip(*names, strict=True)]
        return {stem: list(compress(own, differs)) for stem, own in words.items()}
    first = _n_shared(names)
    last = _n_shared([own[first:][::-1] for own in names])
    middles = {stem: own[first : len(own) - last] for stem, own in words.items()}
    counts = [Counter(own) for own in middles.values()]
    shared = {word for word in counts[0] if len({count[word] for count in counts}) == 1}
    return {stem: [word for word in own if word not in shared] for stem, own in middles.items()}


def _n_shared(names: Sequence[Sequence[str]]) -> int:
    """How many words all names begin with."""
    columns = zip(*names, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _common(folders: Sequence[Mapping[str, Path]]) -> dict[str, list[Path]]:
    keys = set(folders[0]).intersection(*folders[1:])
    return {key: [there[key] for there in folders] for key in sorted(keys)}


def _names(found: Mapping[str, Sequence[Path]], rule: str) -> dict[str, str]:
    """Names of the cases: what the files' names have in common, where that tells them apart."""
    if rule == EXACT:
        return {key: _UNFIT.sub("_", key) for key in found}
    stems = {key: [path.name.split(".")[0] for path in paths] for key, paths in found.items()}
    names = {key: _UNFIT.sub("_", reduce(_shared, own)).strip("_.-") for key, own in stems.items()}
    if len(set(names.values())) == len(names) and all(names.values()):
        return names
    return {key: _UNFIT.sub("_", own[0]) for key, own in stems.items()}


def _shared(first: str, second: str) -> str:
    match = SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
    return first[match.a : match.a + match.size]
