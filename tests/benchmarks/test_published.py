"""The published tables: they are read or refused, and predicted as well as is stated."""

import json

import pytest

from benchmarks import published
from benchmarks.published import (
    CANDIDATES,
    COLUMNS,
    ERRORS,
    KEPT,
    TABLE,
    best_constants,
    main,
    predict_all,
    read_speeds,
    tables_of,
    theano_mpi,
    weird_trick,
)
from common.errors import ReportedError

HEADER = ",".join(COLUMNS)


@pytest.fixture
def table(tmp_path):
    def write(*rows, header=HEADER):
        path = tmp_path / "rows.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


def row(devices, speed, precision="fp32", batch=128, system="any"):
    return f"a page,{system},{precision},{batch},{devices},{speed}"


def test_the_kept_table_is_predicted_within_the_aim():
    errors = {each["model"]: each for each in tables_of(read_speeds(TABLE))[ERRORS]}
    ours, plain = errors["fitted to 2 devices"], errors["plain ring"]
    assert ours["rows"] == plain["rows"] == 83
    assert ours["median"] <= 5
    assert ours["90th percentile"] <= 15
    assert plain["90th percentile"] > 30


def test_the_constants_are_the_best_for_the_kept_table():
    speeds = {key: row for key, row in read_speeds(TABLE).items() if 2 in row}
    assert best_constants({each: predict_all(speeds, each) for each in CANDIDATES}) == KEPT


def test_the_tables_of_theano_mpi_and_of_2014_are_predicted():
    both = [each["error %"] for each in theano_mpi() if each["part"] == "both"]
    assert both == pytest.approx([1.6, -9.6], abs=0.1)
    errors = [each["error %"] for each in weird_trick() if each["classifier updated"] == "whole"]
    assert max(map(abs, errors)) < 4
    assert [each[""] for each in weird_trick()].count("[M]") == 5


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, 100), row(2, "fast")],
        [row(1, 100), row(2, "nan")],
        [row(1, 100), row(2, 0)],
        [row(1, 100), row(2, -5)],
        [row(1, 100), row(2, 1e300)],
        [row(0, 100)],
        [row(1.5, 100)],
        [row(1, 100, batch=-1)],
        [row(1, 100, batch="")],
        [row(1, 100, precision="fp12")],
        [row(1, 100) + ",more"],
        ["a page,any"],
        ['"open'],
        [],
    ],
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


def test_a_file_with_nothing_to_predict_is_refused(table):
    for rows in ([row(1, 100), row(2, 190)], [row(2, 190), row(4, 380)]):
        with pytest.raises(ReportedError):
            tables_of(read_speeds(table(*rows)))


def test_columns_may_come_in_another_order_and_more_of_them(table):
    path = table(
        "8,any,0,fp16,x,700,page",
        header="devices,system,batch_per_device,precision,more,images_per_second,source",
    )
    assert read_speeds(path) == {("any", "fp16", 0): {8: 700.0}}


def test_rows_of_the_same_devices_give_their_median(table):
    path = table(*(row(1, speed) for speed in (90, 100, 300)))
    assert read_speeds(path) == {("any", "fp32", 128): {1: 100.0}}


def test_a_system_without_two_devices_or_without_one_is_shown_apart(table):
    rows = [row(1, 100, system="a"), row(8, 700, system="a"), row(8, 700, system="b")]
    tables = tables_of(read_speeds(table(*rows)))
    assert [each["system"] for each in tables[published.UNFITTED]] == ["a"]
    assert [each["system"] for each in tables[published.SKIPPED]] == ["b"]
    assert published.SPEEDS not in tables


def test_the_program_writes_what_it_prints(tmp_path, monkeypatch, capsys, table):
    long = "of_a_long_name_" * 9
    rows = [row(devices, 90 * devices + 10, system=long) for devices in (1, 2, 4, 8)]
    json_file = tmp_path / "made" / "published.json"
    arguments = ["published", "--data", str(table(*rows)), "--json", str(json_file)]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 0
    written = json.loads(json_file.read_text())
    assert [(each["system"], each["N"]) for each in written[published.SPEEDS]] == [
        (long, 4),
        (long, 8),
    ]
    printed = capsys.readouterr().out
    assert published.SPEEDS in printed
    assert max(map(len, printed.splitlines())) <= 100 + len(str(json_file))


def test_the_program_prints_the_kept_table_in_100_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["published"])
    assert main() == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
