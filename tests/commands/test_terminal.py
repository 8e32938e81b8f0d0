import errno
import os
import signal
import subprocess
import sys

import pytest

from gdmnet.commands import plan_and_preprocess
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.errors import DatasetError
from gdmnet.folders import nifti_form


@pytest.fixture
def parser():
    parser = new_parser("gdm_some: a command.")
    parser.add_dataset_arguments("dataset", "configuration", "fold", required=2)
    parser.add_argument("--objective")
    parser.add_argument("--levels", nargs="+")
    parser.add_shared_options(roots=())
    return parser


@pytest.mark.parametrize(
    "words",
    [
        "501 3d_fullres 1 --objective gdm",
        "--objective gdm 501 3d_fullres 1",
        "501 --objective gdm 3d_fullres -f 1",
        "-d 501 3d_fullres --objective gdm 1",
        "-d501 -c 3d_fullres -f 1 --objective gdm",
        "-f 1 501 -c 3d_fullres --objective gdm",
    ],
)
def test_a_dataset_is_named_by_position_or_by_option_alike(parser, words):
    args = parser.parse_args(words.split())
    found = (args.dataset, args.configuration, args.fold, args.objective)
    assert found == ("501", "3d_fullres", "1", "gdm")


@pytest.mark.parametrize("words", ["501 502", "-d 501 502", "501 -d 502", "-np 2 501 502"])
def test_several_datasets_are_named_alike(words):
    parser = new_parser("gdm_some: a command.")
    parser.add_dataset_arguments("dataset", required=1, several=True)
    parser.add_shared_options(roots=())
    assert parser.parse_args(words.split()).dataset == ["501", "502"]
    with pytest.raises(SystemExit):
        parser.parse_args([])


def test_what_need_not_be_given_is_none_and_all_words_are_kept(parser):
    words = ["501", "3d_fullres", "--objective", "gdm"]
    found = parser.parse_args(words)
    assert (found.fold, found.typed) == (None, words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("501", "no configuration is given (-c: 3d_fullres, 3d_lowres, ...)"),
        ("-d 501 3d_fullres 0 1", "one word too many: 1"),
        ("501 3d_fullres --npz", "--npz is nnU-Net's; here: --uncertainty"),
        ("501 3d_fullres -chk best", "-chk is nnU-Net's; here: --checkpoint"),
        ("501 3d_fullres -npp 4", "-npp is nnU-Net's; here: -np"),
        ("501 3d_fullres -np 0", "0 is not a positive whole number"),
        ("501 3d_fullres --wisdom", "unrecognized arguments: --wisdom; see "),
        ("501 3d_fullres --objektive gdm", "--objektive gdm; did you mean --objective?"),
    ],
)
def test_a_refusal_is_one_line(parser, words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words.split())
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


BODY = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from gdmnet.commands.terminal import guarded
def body():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
sys.exit(guarded(body))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_stops_a_command_as_ctrl_c_does(name):
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", BODY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert process.communicate() == ("cleaned up\n", "stopped\n")
    assert process.returncode == 128 + number


UNREAD = """
import sys
from gdmnet.commands.terminal import guarded
sys.exit(guarded(lambda: print("line\\n" * int(sys.argv[1])) or 0))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("n_lines", [10, 100_000])  # in a buffer to the end, and written before
def test_a_reader_that_has_gone_is_no_traceback(n_lines, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", UNREAD, str(n_lines)]
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_name_with_a_line_break_does_not_break_the_line(capsys):
    def body():
        raise DatasetError("raw/a\nb: 2 complaints\n  one\x1b[2J\n  two")

    assert guarded(body) == 2
    assert capsys.readouterr().err == "error: raw/a\\nb: 2 complaints\n  one\\x1b[2J\n  two\n"


def test_what_may_not_be_read_is_one_line_that_does_not_call_it_written(capsys):
    def body():
        raise PermissionError(errno.EACCES, "Permission denied", "imagesTr")

    assert guarded(body) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: imagesTr: Permission denied; check the folder's permissions and free space\n"
    )


SWALLOWED = """
import os, signal, sys, time, weakref
from gdmnet.commands.terminal import guarded
class Thing: pass
def body():
    thing = Thing()
    link = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing  # Python ignores what is raised in the callback
    time.sleep(60)
sys.exit(guarded(body))
"""


def test_a_signal_that_arrives_while_an_object_is_collected_is_not_lost():
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "stopped\n")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("x/" * 2500, "5000 bytes are too long for a path"),
        ("a\nb", "a\\nb: control characters"),
        ("/tmp/" + "n" * 300, "305 bytes are too long for a path"),
        (
            os.fsdecode(b"M\xfcller"),
            "M\\udcfcller: control characters, or bytes that are not UTF-8",
        ),
    ],
)
def test_what_no_file_can_be_called_is_refused_at_once(word, said, capsys):
    parser = new_parser("it does nothing")
    parser.add_shared_options()
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--raw", word])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-np", "-1"], ["-np", "0"], ["--memory", "nan"]])
def test_numbers_out_of_their_bounds_are_refused_at_once(words, capsys):
    with pytest.raises(SystemExit):
        plan_and_preprocess.build_parser().parse_args(["501", *words])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_form_that_is_typed_reaches_every_process(monkeypatch):
    monkeypatch.setenv("gdmnet_nifti_form", "")  # so that it is taken back
    assert nifti_form() is None
    plan_and_preprocess.build_parser().parse_args(["501", "--nifti-form", "sform"])
    assert nifti_form() == "sform"
    monkeypatch.setenv("gdmnet_nifti_form", "both")
    with pytest.raises(DatasetError, match="set it to sform or qform"):
        nifti_form()


def test_a_command_of_its_own_has_its_own_parser(capsys):
    parser, own = new_parser("gdm_some: a command."), new_parser("takes a dataset")
    own.add_dataset_arguments("dataset", required=1)
    own.add_argument("--deep", action="store_true")
    parser.add_commands({"one": own, "two": new_parser("takes nothing")})
    found = parser.parse_args(["one", "--deep", "501"])
    assert (found.command, found.dataset, found.deep) == ("one", "501", True)
    assert own.prog == f"{parser.prog} one"
    for words, said in (
        ([], "required: one|two"),
        (["three"], "choose from"),
        (["two", "--deep"], "unrecognized arguments: --deep"),
        (["one"], "no dataset is given"),
    ):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(words)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
