"""What all commands share: root options, logging, devices, and errors as one line with exit 2."""

from __future__ import annotations

import argparse
import errno
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path

from gdmnet import __version__
from gdmnet.errors import GdmnetError
from gdmnet.folders import Roots, find_roots, n_default_processes


def new_parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser with --version; argparse's own refusals already exit with 2."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gdmnet {__version__}")
    return parser


def add_root_options(parser: argparse.ArgumentParser) -> None:
    """--raw, --preprocessed and --results, over the environment variables of those names."""
    group = parser.add_argument_group("folders (default: environment variables of these names)")
    group.add_argument("--raw", type=Path, metavar="DIR", help="gdmnet_raw")
    group.add_argument("--preprocessed", type=Path, metavar="DIR", help="gdmnet_preprocessed")
    group.add_argument("--results", type=Path, metavar="DIR", help="gdmnet_results")


def add_processes_option(parser: argparse.ArgumentParser) -> None:
    """-np N."""
    parser.add_argument(
        "-np",
        dest="n_processes",
        type=positive_int,
        default=n_default_processes(),
        metavar="N",
        help="worker processes (default: %(default)s)",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device DEVICE, "auto" if it is not given."""
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 (default: auto)"
    )


def roots_from(args: argparse.Namespace) -> Roots:
    """The roots of parsed arguments; says aloud which ones fell back to the current directory."""
    roots = find_roots(args.raw, args.preprocessed, args.results)
    for note in roots.notes:
        print(note, file=sys.stderr)
    return roots


def positive_int(text: str) -> int:
    """An argparse type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return value


def positive_float(text: str) -> float:
    """An argparse type."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def share(text: str) -> float:
    """An argparse type."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie in (0, 1]")
    return value


def guarded(run: Callable[[], int]) -> int:
    """Run a command's body and turn what the user can fix into one line on stderr and status 2.

    Ctrl-C gives 130; any other exception stays a traceback, because it is our fault.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return run()
    except GdmnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        print(
            f"error: {error.filename or 'output'}: cannot be written ({error.strerror});"
            " check the folder's permissions and free space",
            file=sys.stderr,
        )
        return 2
