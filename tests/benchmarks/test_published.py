"""The published tables are predicted as well as is stated."""

import json

import pytest

from benchmarks import published
from benchmarks.published import (
    CANDIDATES,
    ERRORS,
    KEPT,
    TABLE,
    best_constants,
    main,
    predict_all,
    tables_of,
    theano_mpi,
    weird_trick,
)
from benchmarks.speeds import read_speeds
from common.errors import ReportedError


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


def test_a_file_with_nothing_to_predict_is_refused(table, row):
    for rows in ([row(1, 100), row(2, 190)], [row(2, 190), row(4, 380)]):
        with pytest.raises(ReportedError):
            tables_of(read_speeds(table(*rows)))


def test_a_system_without_two_devices_or_without_one_is_shown_apart(table, row):
    rows = [row(1, 100, system="a"), row(8, 700, system="a"), row(8, 700, system="b")]
    tables = tables_of(read_speeds(table(*rows)))
    assert [each["system"] for each in tables[published.UNFITTED]] == ["a"]
    assert [each["system"] for each in tables[published.SKIPPED]] == ["b"]
    assert published.SPEEDS not in tables


def test_the_program_writes_what_it_prints(tmp_path, monkeypatch, capsys, table, row):
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
