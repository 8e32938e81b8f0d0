"""What all commands share: one parser, root folders, and errors as one line with exit 2."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gdmnet import __version__
from gdmnet.errors import GdmnetError
from gdmnet.files import LONGEST_NAME, printable
from gdmnet.folders import NIFTI_FORMS, Roots, find_roots, n_default_processes, use_nifti_form
from gdmnet.settings import add_settings, given_settings
from gdmnet.training.settings import EncoderSettings

_DATASET_OPTIONS = {
    "dataset": ("-d", "ID", "501 or Dataset501_Name"),
    "configuration": ("-c", "NAME", "3d_fullres, 3d_lowres, ..."),
    "fold": ("-f", "FOLD", "0, 1, ... or all (default: 0)"),
}
_SIGPIPE = 13  # which Windows does not have
_LONGEST_PATH = 4096  # bytes, of Linux and most others
_Body = Callable[[argparse.Namespace], int]
_Main = Callable[..., int]
_ROOTS = ("raw", "preprocessed", "results")
_NNUNET = {
    "--npz": "--uncertainty",
    "--save_probabilities": "--uncertainty",
    "-tr": "--objective, with --option for its options",
    "-p": "no plan's name: a prepared dataset has one plan, plan.json",
    "-plans_name": "no plan's name: a prepared dataset has one plan, plan.json",
    "-pl": "no planner's name: there is one",
    "-chk": "--checkpoint",
    "--c": "--continue",
    "--continue_prediction": "nothing: predictions that are there are kept (--overwrite)",
    "-pretrained_weights": "--pretrained",
    "--disable_tta": "nothing: mirrored copies are averaged only with --tta",
    "-step_size": "--step-size",
    "-device": "--device",
    "-num_gpus": "--num-gpus",
    "-npp": "-np",
    "-nps": "-np",
    "-num_parts": "--num-parts",
    "-part_id": "--part-id",
    "-gpu_memory_target": "--memory",
    "--verify_dataset_integrity": "nothing: it is always verified; gdm_check looks closer",
    "--clean": "--replan",
    "-overwrite_target_spacing": "nothing: the plan's spacing follows from the data",
    "-overwrite_plans_name": "no plan's name: a prepared dataset has one plan, plan.json",
    "--val": "nothing: a training ends with the validation of whole volumes",
    "--val_best": "nothing: a training ends with the validation of whole volumes",
    "--disable_progress_bar": "nothing: there is none where the output is a file",
    "-fpe": "nothing: there is one fingerprint",
    "-prev_stage_predictions": "nothing: there is no cascade",
}
"""nnU-Net's options and what stands for them here."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose refusals are one line, and that takes a dataset by position or by -d alike."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (argparse's own)
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )
        self._words: tuple[str, ...] = ()  # what positional arguments mean, in their order
        self._several = False
        self._n_required = 0
        self.commands: dict[str, CommandParser] = {}

    def add_commands(self, commands: dict[str, CommandParser]) -> None:
        """Take the first word for a command of its own, and all others for its parser."""
        self.commands = commands
        self.usage = f"%(prog)s {{{','.join(commands)}}} ..."
        for name, parser in commands.items():
            parser.prog = f"{self.prog} {name}"
            self.epilog = f"{self.epilog or ''}\n  {parser.prog}: {parser.description}"
        names, text = list(commands), "each has its own --help"
        self.add_argument("command", choices=names, metavar="|".join(names), help=text)

    def add_dataset_arguments(self, *names: str, required: int, several: bool = False) -> None:
        """Take dataset, configuration and fold by position or by -d, -c and -f, or else as None.

        Args:
            names: of "dataset", "configuration", "fold", in this order.
            required: how many of them must be given.
            several: more than one dataset may be given, which is then a list; for no other names.
        """
        self._words, self._n_required, self._several = names, required, several
        words = (name if at < required else f"[{name}]" for at, name in enumerate(names))
        shown = " ".join(words).upper() + " ..." * several
        self.add_argument("words", nargs="*", metavar="WORD", help=f"{shown}, or by option:")
        self.usage = f"%(prog)s {shown} [options]"
        for name in names:
            flag, metavar, text = _DATASET_OPTIONS[name]
            nargs = "+" if several else None
            self.add_argument(flag, dest=name, metavar=metavar, nargs=nargs, help=text)

    def add_shared_options(
        self, *, roots: Sequence[str] = _ROOTS, processes: bool = True, images: bool = True
    ) -> None:
        """Add the options that mean the same in every command.

        `roots` are root folders, --raw and so on, over the environment variables; `processes` adds
        -np, and `images` --nifti-form, for commands that read some.
        """
        if processes:
            text = "worker processes (default: %(default)s)"
            self.add_argument("-np", dest="n_processes", type=positive_int, metavar="N", help=text)
            self.set_defaults(n_processes=n_default_processes())
        if images:
            text = "what places a NIfTI file whose two forms differ (default: it is refused)"
            self.add_argument("--nifti-form", action=_NiftiForm, choices=NIFTI_FORMS, help=text)
        title = "folders (default: environment variables of these names)"
        group = self.add_argument_group(title) if roots else self
        for name in roots:
            group.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"gdmnet_{name}")

    def add_encoder_options(self, *, without: Sequence[str] = ()) -> None:
        """Add --encoder and --encoder-weights, -stages, ..., which choose a feature encoder."""
        group = self.add_argument_group("feature encoder (gdm_info --encoders lists them)")
        add_settings(group, EncoderSettings, without=without, prefix="encoder_")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse, and give positional words to what no option has named; `typed` has all words."""
        given = list(sys.argv[1:] if args is None else args)
        if self.commands:
            found = super().parse_args(given[:1], namespace)
            return self.commands[found.command].parse_args(given[1:], found)
        self._refuse_nnunet(given)
        self._refuse_names(given)
        parse = self.parse_intermixed_args if self._words else super().parse_args
        found = parse(given, namespace)
        found.typed = given
        if self._several:
            found.dataset = [*found.words, *(found.dataset or [])] or None
        elif self._words:
            self._name_words(found)
        for name in self._words[: self._n_required]:
            if getattr(found, name) is None:
                flag, _, text = _DATASET_OPTIONS[name]
                self.error(f"no {name} is given ({flag}: {text}); see {self.prog} --help")
        return found

    def _name_words(self, found: argparse.Namespace) -> None:
        free = [name for name in self._words if getattr(found, name) is None]
        if len(found.words) > len(free):
            self.error(f"one word too many: {found.words[len(free)]}; see {self.prog} --help")
        for name, word in zip(free, found.words, strict=False):
            setattr(found, name, word)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line, which names the option that a misspelt one is like."""
        unknown = message.partition("unrecognized arguments: ")[2].split("=")[0].split()
        if unknown:
            alike = get_close_matches(unknown[0], self._option_string_actions, n=1)
            message += f"; did you mean {alike[0]}?" if alike else f"; see {self.prog} --help"
        self.exit(2, f"error: {' '.join(message.split())}\n")

    def _refuse_nnunet(self, given: Sequence[str]) -> None:
        for word in (word.split("=")[0] for word in given):
            if word in _NNUNET and word not in self._option_string_actions:
                self.error(f"{word} is nnU-Net's; here: {_NNUNET[word]}")

    def _refuse_names(self, given: Sequence[str]) -> None:
        """Refuse what no file can be called before anything is done."""
        for word in given:
            path = os.fsencode(word)
            if len(path) >= _LONGEST_PATH or max(map(len, path.split(b"/"))) > LONGEST_NAME:
                self.error(f"{word[:40]}...: {len(path)} bytes are too long for a path")
            if printable(word) != word:
                self.error(f"{printable(word)}: control characters, or bytes that are not UTF-8")


def add_path(
    parser: argparse._ActionsContainer,
    flag: str,
    name: str,
    help: str,
    *,
    metavar: str = "DIR",
    **more: Any,  # noqa: ANN401 (argparse's own)
) -> None:
    """Add an option for a file or a folder, `args.NAME`."""
    parser.add_argument(flag, dest=name, type=Path, metavar=metavar, help=help, **more)


def new_parser(description: str, epilog: str | None = None) -> CommandParser:
    """A parser with --version; argparse's own refusals already exit with 2."""
    parser = CommandParser(description=description, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"gdmnet {__version__}")
    return parser


class _NiftiForm(argparse.Action):
    def __call__(self, _: object, found: argparse.Namespace, form: Any, *__: object) -> None:  # noqa: ANN401
        use_nifti_form(form)
        setattr(found, self.dest, form)


def roots_from(args: argparse.Namespace) -> Roots:
    """The roots of parsed arguments; says aloud which ones will lie in the current directory.

    Those that the command has no option for are the current directory, without a word.
    """
    roots = find_roots(*(getattr(args, name, Path()) for name in _ROOTS))
    if roots.note:
        print(roots.note, file=sys.stderr)
    return roots


def positive_int(text: str) -> int:
    """An argparse type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return value


def _stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _number_of(stop: KeyboardInterrupt) -> int:
    """The signal's; Ctrl-C itself tells none."""
    return stop.args[0] if stop.args else signal.SIGINT


def _ask_again(ignored: sys.UnraisableHookArgs) -> None:
    """Stop once more: Python swallows what is raised while an object is collected."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        stop = os.getpid(), _number_of(ignored.exc_value)
        threading.Timer(0.1, os.kill, stop).start()
    else:
        sys.__unraisablehook__(ignored)


def _is_unread() -> bool:
    """Whether who read what is printed has gone, as `head` does; the rest is then thrown away."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def guarded(run: Callable[[], int]) -> int:
    """Run a command's body and turn what the user can fix into one line on stderr and status 2.

    Ctrl-C, SIGTERM (docker stop) and SIGUSR1 (SLURM, before the time is up) stop it as an exception
    does, so that files are cleaned up; the status is 128 and the signal's number, also where nobody
    reads any more what is printed. Any other exception stays a traceback, because it is our fault.
    """
    from gdmnet.parallel import log_to_stderr  # not for --help

    log_to_stderr()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may ask for signals
    before = {number: signal.signal(number, _stop) for number in numbers}
    ignored, sys.unraisablehook = sys.unraisablehook, _ask_again
    try:
        status = run()
        sys.stdout.flush()
        return status
    except GdmnetError as error:
        lines = str(error).split("\n  ")  # of a list of complaints; a name may have others
        print("error:", "\n  ".join(map(printable, lines)), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        return 128 + _number_of(stop)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return 128 + _SIGPIPE
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        print(
            f"error: {error.filename or 'output'}: {error.strerror}; check the folder's permissions"
            " and free space",
            file=sys.stderr,
        )
        return 2
    finally:
        sys.unraisablehook = ignored
        for number, handler in before.items():
            signal.signal(number, handler)


def command(build_parser: Callable[[], argparse.ArgumentParser]) -> Callable[[_Body], _Main]:
    """Make a command's entry point, `main(argv)`, of what it does with parsed arguments."""

    def decorate(body: _Body) -> _Main:
        def main(argv: list[str] | None = None) -> int:
            args = build_parser().parse_args(argv)
            return guarded(lambda: body(args))

        return wraps(body)(main)

    return decorate


def encoder_settings(args: argparse.Namespace) -> EncoderSettings | None:
    """What was typed of a feature encoder, the rest as by default; None where nothing was."""
    given = given_settings(args, EncoderSettings, prefix="encoder_")
    return EncoderSettings(**given) if given else None
