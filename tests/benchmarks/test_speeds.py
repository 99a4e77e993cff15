"""Tables of speeds are read or refused."""

import pytest

from benchmarks.speeds import read_speeds
from common.errors import ReportedError

GOOD = {"precision": "fp32", "batch": 128, "devices": 1, "speed": 100}


@pytest.mark.parametrize(
    "fault",
    [
        {"speed": "fast"},
        {"speed": "nan"},
        {"speed": 0},
        {"speed": -5},
        {"speed": 1e300},
        {"devices": 0},
        {"devices": 1.5},
        {"batch": -1},
        {"batch": ""},
        {"precision": "fp12"},
    ],
)
def test_bad_values_are_refused(fault, table, row):
    with pytest.raises(ReportedError, match="line 3") as caught:
        read_speeds(table(row(**GOOD), row(**{**GOOD, **fault})))
    assert caught.value.status == 2
    assert str(caught.value).isprintable()
    assert repr(str(*fault.values())) in str(caught.value)


@pytest.mark.parametrize(
    "rows", [["a page,any,fp32,128,1,100,more"], ["a page,any"], ['"open'], []]
)
def test_bad_rows_are_refused(rows, table):
    with pytest.raises(ReportedError) as caught:
        read_speeds(table(*rows))
    assert caught.value.status == 2
    assert str(caught.value).isprintable()


def test_bad_files_are_refused(tmp_path, table):
    (tmp_path / "image").write_bytes(b"\x89PNG\x00\xff" * 9)
    for path in (tmp_path / "none", tmp_path, tmp_path / "image", table(header="system,devices")):
        with pytest.raises(ReportedError):
            read_speeds(path)


def test_columns_may_come_in_another_order_and_more_of_them(table):
    path = table(
        "8,any,0,fp16,x,700,page",
        header="devices,system,batch_per_device,precision,more,images_per_second,source",
    )
    assert read_speeds(path) == {("any", "fp16", 0): {8: 700.0}}


def test_rows_of_the_same_devices_give_their_median(table, row):
    path = table(*(row(1, speed) for speed in (90, 100, 300)))
    assert read_speeds(path) == {("any", "fp32", 128): {1: 100.0}}
