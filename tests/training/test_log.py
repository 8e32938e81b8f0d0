import json
import math
from datetime import datetime

import pytest
import torch

from gdmnet.errors import OutputError, PlanError
from gdmnet.training import log


def _record(epoch, **values):
    return {"epoch": epoch, "epochs": 12, "fidelity": 0.5, "skipped": 0, "best": False} | values


@pytest.fixture
def half_past_ten(monkeypatch):
    """A clock that stands: the minute must not turn between a line and what it is compared with."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 30, 22, 30, 50, tzinfo=tz)

    monkeypatch.setattr(log, "datetime", Clock)


def test_what_is_logged_is_read(tmp_path):
    records = [_record(1, cos=-0.25), _record(2, best=True)]
    for record in records:
        log.append(tmp_path, record)
    assert log.read(tmp_path) == records
    assert len((tmp_path / log.LOG_TXT).read_text().splitlines()) == 2


def test_numbers_that_are_not_finite_become_null(tmp_path):
    log.append(tmp_path, _record(1, fidelity=math.nan, cos=math.inf))
    record = json.loads((tmp_path / log.LOG_JSONL).read_text())
    assert record["fidelity"] is record["cos"] is None
    assert "fidelity" not in (tmp_path / log.LOG_TXT).read_text()


def test_the_readable_line_tells_what_matters(half_past_ten):
    line = log.readable(
        _record(3, validation_mae=0.1234567, validation_sharpness=0.8, seconds=2.04, best=True)
    )
    assert line == (
        "epoch  3/12  22:30  fidelity 0.5000  validation MAE 0.123 network units"
        "  sharpness 0.800  2.0 s  best so far  18 s to go, done about 22:31"
    )
    in_hu = log.readable(_record(12, validation_mae=0.1234567, validation_mae_hu=61.72835))
    assert in_hu == "epoch 12/12  22:30  fidelity 0.5000  validation MAE 61.7 HU"
    in_file = log.readable(_record(12, validation_mae=0.25, validation_mae_file=0.5))
    assert in_file.endswith("validation MAE 0.500 file units")
    assert "skipped 4" in log.readable(_record(3, skipped=4))


def test_every_epoch_tells_how_long_the_others_will_take(half_past_ten):
    assert log.readable(_record(1, seconds=30.0)).endswith("6 min to go, done about 22:36")
    assert "to go" not in log.readable(_record(12, seconds=30.0))
    assert log.clock_after(6000) == "Tue 00:10"


@pytest.mark.parametrize(
    ("seconds", "words"), [(41.6, "42 s"), (60, "1 min"), (4200, "1 h 10 min"), (266400, "3 d 2 h")]
)
def test_durations_have_their_two_largest_units(seconds, words):
    assert log.duration(seconds) == words


def test_truncating_forgets_later_epochs_and_a_line_that_was_cut_off(tmp_path):
    for epoch in range(1, 12):
        log.append(tmp_path, _record(epoch))
    whole = (tmp_path / log.LOG_JSONL).read_text(), (tmp_path / log.LOG_TXT).read_text()
    with (tmp_path / log.LOG_JSONL).open("a") as handle:
        handle.write('{"epoch": 12, "ep')
    log.truncate(tmp_path, 9)
    assert [record["epoch"] for record in log.read(tmp_path)] == list(range(1, 10))
    assert len((tmp_path / log.LOG_TXT).read_text().splitlines()) == 9
    for epoch in (10, 11):
        log.append(tmp_path, _record(epoch))
    assert ((tmp_path / log.LOG_JSONL).read_text(), (tmp_path / log.LOG_TXT).read_text()) == whole


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting"),
        ("[1]", "no names and values"),
        ('{"epoch": 0, "epochs": 9}', "epoch is 0"),
        ('{"epoch": 1.5, "epochs": 9}', "epoch is 1.5"),
        ('{"epoch": 1}', "epochs is None"),
        ('{"epoch": 2, "epochs": 9, "loss": NaN}', "loss is nan"),
        ('{"epoch": 2, "epochs": 9, "loss": "low"}', "loss is 'low'"),
        ('{"epoch": 2, "epochs": 9, "loss": %s}' % ("9" * 400), "loss is 999"),
        ('{"epoch": 2, "epochs": 9, "loss": %s}' % ("9" * 9000), "digits"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_is_no_record_is_named_by_its_number(tmp_path, line, words):
    log.append(tmp_path, _record(1))
    with (tmp_path / log.LOG_JSONL).open("a") as handle:
        handle.write(line + "\n" + json.dumps(_record(3)) + "\n")
    with pytest.raises(PlanError, match=f"line 2: .*{words}.*move the file away") as error:
        log.read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_log_has_no_records(tmp_path):
    assert log.read(tmp_path) == []
    log.truncate(tmp_path, 3)
    assert log.read(tmp_path) == []


def test_a_log_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"log.jsonl: cannot be written"):
        log.append(tmp_path / "missing", _record(1))


def test_means_leave_out_what_is_not_finite():
    result = log.means([{"a": 1.0, "b": math.nan}, {"a": 3.0, "b": 5.0, "c": math.inf}])
    assert (result["a"], result["b"]) == (2.0, 5.0)
    assert math.isnan(result["c"])


def test_numbers_on_a_device_are_read_ten_steps_at_a_time():
    metrics = log.StepMetrics()
    read = [metrics.add({"a": torch.tensor(float(step)), "b": 2.0 * step}) for step in range(12)]
    assert read == [False] * 9 + [True, False, False]
    assert metrics.records[-1] == {"a": 9.0, "b": 18.0}
    assert metrics.read() == [{"a": float(step), "b": 2.0 * step} for step in range(12)]
    assert metrics.read() == metrics.read()
