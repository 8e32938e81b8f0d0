"""Files and folders that are there whole or not at all, and folders that one process owns."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from gdmnet.errors import BusyError, OutputError

WAIT_SECONDS = 2.0  # between two looks whether a folder is free
_log = logging.getLogger(__name__)
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.(part|old)")
LONGEST_NAME = 215  # bytes of a file's name: 255 are possible, and names aside are longer by 40
_held: set[str] = set()  # POSIX locks do not keep a process from itself


@contextlib.contextmanager
def whole_file(
    path: Path, *, also: tuple[type[Exception], ...] = (), private: bool = False
) -> Iterator[Path]:
    """A new empty file beside `path` to write; it takes that name once it is on the disk.

    Its name is of this call alone and is created exclusively, so that no link is followed and
    processes do not disturb each other. What fails leaves `path` as it was and nothing beside it.

    Args:
        path: of the file that shall be there as a whole; its folder is made.
        also: as for `output_errors`.
        private: names or shows patients: mode 0600, only the owner may read it.

    Raises:
        OutputError: the file cannot be written.
    """
    with output_errors(path, also):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _name_aside(path, "part")
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666))
        try:
            yield aside
            _to_disk(aside)
            aside.replace(path)
        except BaseException:  # Ctrl-C and SIGTERM, too, here and below
            with contextlib.suppress(OSError):
                aside.unlink()
            raise
        _to_disk(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new empty folder beside `path` to fill; it takes that name once all of it is on the disk.

    With `overwrite` it may take the place of one that is there, which goes only then.

    Raises:
        OutputError: the folder cannot be written, or is there already.
    """
    _require_free(path, overwrite=overwrite)
    aside = folder_aside(path)
    try:
        with output_errors(path):
            yield aside
        _require_free(path, overwrite=overwrite)
        put_in_place(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def folder_aside(path: Path) -> Path:
    """A new empty folder beside `path`; `sweep` removes it once this process has been killed."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _name_aside(path, "part")
        aside.mkdir()
    return aside


def put_in_place(aside: Path, path: Path) -> None:
    """Give a folder of `folder_aside` its name once all of it is on the disk.

    What had the name before goes only then; if this is killed, `sweep` brings it back.
    """
    with output_errors(path):
        for folder, _, names in os.walk(aside):
            for name in names:
                _to_disk(Path(folder, name))
            _to_disk(Path(folder))
        with set_aside(path):
            aside.rename(path)
        _to_disk(path.parent)


@contextlib.contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """Move a file or folder away while something takes its place; then remove it.

    If that fails, what was there comes back; if the process is killed, `sweep` brings it back.
    """
    if not os.path.lexists(path):
        yield
        return
    before = _name_aside(path, "old")
    path.rename(before)
    try:
        yield
    except BaseException:
        if os.path.lexists(path):
            _remove(path)
        before.rename(path)
        raise
    try:
        _remove(before)
    finally:  # a signal may have stopped it half-way
        shutil.rmtree(before, ignore_errors=True)


def sweep(folder: Path, *, only: str | None = None) -> None:
    """Clean up after killed processes of this machine: what they left in a folder half-written.

    What one of them had set aside comes back to its place if nothing else has taken it. Files of
    living processes, of other machines, and in subfolders are left alone. `only` is the one
    subfolder whose leftovers go, with those of files: processes in another container, which may be
    at work in the others, cannot be seen from here.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _ASIDE.match(path.name)
        if found is None or found["host"] != _HOST or _is_alive(int(found["pid"])):
            continue
        if only not in (None, found["name"]) and path.is_dir():
            continue
        place = folder / found["name"]
        with contextlib.suppress(OSError):
            if found[4] == "old" and not os.path.lexists(place):
                path.rename(place)
            else:
                _remove(path)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own a folder until the block ends; leftovers of killed owners are swept first.

    The lock is the operating system's, on the file .<folder>.lock beside the folder: it ends with
    its process, however that ends, and holds between machines where their file system knows locks.

    Raises:
        BusyError: another process owns the folder; its machine and number are named.
        OutputError: the folder's parent cannot be written.
    """
    folder = Path(os.path.normpath(folder.absolute()))  # "." has a name, too
    path = folder.parent / f".{folder.name}.lock"
    name = os.path.realpath(path)
    with output_errors(path):
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = None if name in _held else _locked(path)
    if handle is None:  # closing our own lock file, once read, would end our lock
        owner = "this very process" if name in _held else _owner_of(path)
        raise BusyError(f"{folder}: {owner} is at work here; wait for it or stop it")
    _held.add(name)
    try:
        os.truncate(handle, 0)
        me = {"host": socket.gethostname(), "process": os.getpid()}
        os.write(handle, json.dumps(me).encode())
        sweep(folder.parent, only=folder.name)
        sweep(folder)
        yield
    finally:
        _held.discard(name)
        with contextlib.suppress(OSError):
            path.unlink()  # before it is let go: nobody locks a file without a name for long
        os.close(handle)


@contextlib.contextmanager
def lock_when_free(folder: Path) -> Iterator[None]:
    """Own a folder, as `lock` does, once no other process does; that it waits is logged."""
    with contextlib.ExitStack() as owned:
        for attempt in itertools.count():
            try:
                owned.enter_context(lock(folder))
                break
            except BusyError as problem:
                if attempt == 0:
                    _log.info("waiting: %s", problem)
                time.sleep(WAIT_SECONDS)
        yield


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError as problem:
        problem.filename = str(path)  # what fails in reading, unlike in opening, does not name it
        raise
    return digest.hexdigest()


def printable(path: Path | str) -> str:
    """A path for one line of any terminal: control characters, and bytes not UTF-8, as escapes."""

    def escaped(char: str) -> str:
        is_odd = unicodedata.category(char) in ("Cc", "Cs")
        return char.encode("unicode_escape").decode() if is_odd else char

    return "".join(map(escaped, os.fspath(path)))


def _locked(path: Path) -> int | None:
    """The descriptor of a lock file that is now ours; None if it is another's."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not _try_lock(handle):
                os.close(handle)
                return None
            # The owner before may have removed the file between our opening and our locking it.
            if _same(handle, path):
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the text, which others may read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _owner_of(path: Path) -> str:
    for _ in range(50):  # a new owner writes its name a moment after it has the lock
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            owner = json.loads(path.read_text(encoding="utf-8"))
            return f"process {owner['process']} on {owner['host']}"
        time.sleep(0.01)
    return "another process"


@contextlib.contextmanager
def output_errors(path: Path, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """An OutputError in one wording, where `path` cannot be written.

    `also` are errors of a writer that mean a full disk or missing permissions, beside OSError.
    """
    try:
        yield
    except (OSError, *also) as problem:  # type: ignore[misc]
        reason = getattr(problem, "strerror", None) or "the disk may be full"
        raise OutputError(
            f"{path}: cannot be written ({reason}); check the folder's permissions and free space"
        ) from None


def _require_free(path: Path, *, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: is there already; move it away, or give another name")


def _name_aside(path: Path, kind: str) -> Path:
    token = secrets.token_hex(4)
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{token}.{kind}")


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows, some shares cannot wait for folders."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if not (is_folder and problem.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # os.kill would end it there
    try:
        os.kill(pid, 0)
    except OSError as problem:
        return not isinstance(problem, ProcessLookupError)
    return True
