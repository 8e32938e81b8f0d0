"""What Windows does not have is taken away: every module loads, and a lock is a lock.

This stands in for a machine with Windows, which we do not have; its file system is not imitated.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STRIPPED = """
import builtins, fcntl, importlib, os, pkgutil, signal, subprocess, sys, types
import matplotlib.pyplot, scipy.signal, SimpleITK, skimage.measure, torch

LACKING = {"fcntl", "grp", "pwd", "resource", "termios", "tty"}
original = builtins.__import__

def of_windows(name, globals=None, *rest, **named):
    if name in LACKING and str((globals or {}).get("__name__")).startswith("gdmnet"):
        raise ModuleNotFoundError(name)
    return original(name, globals, *rest, **named)

def locking(handle, mode, n_bytes):
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, n_bytes, 0, os.SEEK_CUR)

builtins.__import__ = of_windows
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
for name in ("fork", "getuid", "geteuid", "getpgid", "killpg", "sched_getaffinity", "setsid"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM"):
    delattr(signal, name)
del os.O_NOFOLLOW
sys.platform = "win32"
from gdmnet import errors, files, folders
"""
EVERYTHING = """
import gdmnet
from pathlib import Path
for module in pkgutil.walk_packages(gdmnet.__path__, "gdmnet."):
    loaded = importlib.import_module(module.name)
    if hasattr(loaded, "build_parser"):
        loaded.build_parser().format_help()
assert folders.n_default_processes() >= 1
with files.lock(Path(sys.argv[1])):
    second = subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=False)
assert second.returncode == 3
with files.lock(Path(sys.argv[1])), files.whole_file(Path(sys.argv[1], "a")) as aside:
    aside.write_text("whole")
"""
SECOND = """
from pathlib import Path
try:
    with files.lock(Path(sys.argv[1])):
        pass
except errors.BusyError:
    sys.exit(3)
"""


def test_what_windows_lacks_is_needed_nowhere(tmp_path):
    second = STRIPPED.replace(", scipy.signal, SimpleITK, skimage.measure, torch", "") + SECOND
    command = [sys.executable, "-c", STRIPPED + EVERYTHING, str(tmp_path / "owned"), second]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "owned/a").read_text() == "whole"
