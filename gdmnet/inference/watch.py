"""A folder that others fill: each delivery is taken once it has been quiet for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from gdmnet.errors import GdmnetError

QUIET_SECONDS = 30.0  # an archive sends a series slice by slice
LOOK_SECONDS = 5.0
_log = logging.getLogger(__name__)
State = frozenset[tuple[str, int, int]]
"""Names, sizes and times of all files of a delivery."""


def watch(folder: Path, take: Callable[[Path], None]) -> NoReturn:
    """Hand over every delivery that has stopped changing, for ever.

    A delivery is a subfolder, with all below it, or the files of the folder itself. What `take`
    refuses is logged in one line, and tried again when the delivery has changed.

    Args:
        folder: to look at; it may be empty.
        take: called with a subfolder, or with the folder for its own files.
    """
    taken: dict[Path, State] = {}
    changed: dict[Path, tuple[State, float]] = {}  # when each state was first seen, by our clock
    while True:
        for place, state in list(_deliveries(folder)):
            if taken.get(place) == state:
                continue
            last, since = changed.get(place, (None, 0.0))
            if last != state:
                changed[place] = state, time.monotonic()
            elif time.monotonic() - since >= QUIET_SECONDS:
                try:
                    take(place)
                except GdmnetError as problem:
                    _log.error("error: %s", problem)
                taken[place] = state
        time.sleep(LOOK_SECONDS)


def _deliveries(folder: Path) -> Iterator[tuple[Path, State]]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    places = [(path, sorted(path.rglob("*"))) for path in entries if path.is_dir()]
    for place, paths in (*places, (folder, entries)):
        try:
            found = [(str(path), path.stat()) for path in paths if path.is_file()]
        except FileNotFoundError:  # it is being moved
            continue
        if found:
            yield place, frozenset((name, info.st_size, info.st_mtime_ns) for name, info in found)
