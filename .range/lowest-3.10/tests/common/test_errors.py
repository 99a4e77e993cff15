"""The error that programs report in one line."""

import pickle

import pytest

from common.errors import ReportedError


@pytest.mark.parametrize(("retry", "status"), [(False, 2), (True, 1)])
def test_an_error_that_has_travelled_to_another_rank_has_its_status_and_lines(retry, status):
    error = pickle.loads(pickle.dumps(ReportedError("one", "two", retry=retry)))
    assert (error.status, error.args) == (status, ("one", "two"))


def test_each_argument_is_one_line_whatever_is_in_it():
    assert str(ReportedError("red\n\x1b.png", "grün")) == "red\\n\\x1b.png\ngrün"
