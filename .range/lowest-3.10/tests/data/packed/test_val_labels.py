"""Every form of a list of classes is read, or refused with what to use instead."""

import pytest

from common.errors import ReportedError
from data.packed.val_labels import read_val_labels

CLASSES = ["n01440764", "n01751748", "hot dog"]


@pytest.fixture
def labels(tmp_path):
    def read(text):
        path = tmp_path / "labels.txt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_val_labels(path, CLASSES)

    return read


@pytest.mark.parametrize(
    "text",
    [
        "ImageId,PredictionString\na,n01751748 111 108 441 193 \nb,n01440764 1 2 3 4 n01440764 5 6",
        "\ufeffImageId,PredictionString\r\na,n01751748 1 2 3 4\r\nb,n01440764 5 6 7 8\r\n",
        "a.JPEG n01751748\nb.JPEG n01440764\n",
        "a.JPEG\tn01751748\nb.JPEG   n01440764",
        "val/a.JPEG n01751748\n\nval/b.JPEG n01440764\n",
        'a,n01751748\n"b","n01440764"\n',
        "a n01751748\nb n01440764\na n01751748",
    ],
)
def test_both_forms_are_read(labels, text):
    assert labels(text) == {"a": 1, "b": 0}


def test_names_may_have_spaces(labels):
    assert labels("my photo.jpg n01440764\nother one.jpg,hot dog") == {
        "my photo": 0,
        "other one": 2,
    }


@pytest.mark.parametrize("text", ["490\n361\n", "ILSVRC2012_val_00000001.JPEG 65\n"])
def test_numbers_are_refused_with_what_to_use_instead(labels, text):
    with pytest.raises(ReportedError, match=r"LOC_val_solution\.csv") as caught:
        labels(text)
    assert "\n" not in str(caught.value)


def test_numbers_are_classes_where_the_folders_are_called_so(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a.png 7\n")
    assert read_val_labels(path, ["3", "7"]) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a n01751748\nb n99999999\n", "line 2 of .*b n99999999"),
        ("n01751748\n", "line 1 of .*n01751748"),
        ("a,\n", "line 1 of .*a,"),
        ("x" * 500, "xxx…"),
        ("a n01751748\na.JPEG n01440764\n", " a two classes"),
        ("", r"labels\.txt"),
        ("ImageId,PredictionString\n", r"labels\.txt"),
        (b"\xff\xfe\x00", r"labels\.txt"),
    ],
)
def test_other_lines_are_refused(labels, text, named):
    with pytest.raises(ReportedError, match=named) as caught:
        labels(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ReportedError, match=r"no\.txt .*No such file"):
        read_val_labels(tmp_path / "no.txt", CLASSES)
