"""Fashion-MNIST's files: found, verified, downloaded once, and never trusted unseen.

Except for the first test, a small stand-in takes the place of the real files.
"""

import gzip
import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch

from common.errors import ReportedError
from data import fashion_mnist
from data.datasets import open_dataset
from data.fashion_mnist import FashionMNIST, prepare

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(scope="module")
def real_folder():
    try:
        return prepare()
    except ReportedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("split", "count", "first_labels", "mean"),
    [
        ("train", 60_000, [9, 0, 0, 3, 0, 2, 7, 2], 72.940),
        ("test", 10_000, [9, 2, 1, 1, 6, 1, 4, 6], 73.147),
    ],
)
def test_the_real_files_hold_the_published_set(real_folder, split, count, first_labels, mean):
    dataset = FashionMNIST(split, real_folder)
    assert len(dataset) == count
    assert dataset.images.shape == (count, 1, 28, 28)
    assert dataset.images.float().mean().item() == pytest.approx(mean, abs=1e-3)
    assert dataset.labels.bincount().tolist() == [count // 10] * 10
    assert dataset.labels[:8].tolist() == first_labels
    assert dataset.classes[first_labels[0]] == "Ankle boot"


@pytest.fixture
def files(monkeypatch, tmp_path):
    """A stand-in of three training and two test images; no place has it, and no source."""
    contents = {
        IMAGES: bytes(16) + bytes(pixel % 251 for pixel in range(3 * 28 * 28)),
        LABELS: bytes(8) + bytes([7, 0, 9]),
        "t10k-images-idx3-ubyte": bytes(16) + bytes(pixel % 241 for pixel in range(2 * 28 * 28)),
        "t10k-labels-idx1-ubyte": bytes(8) + bytes([1, 2]),
    }
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(fashion_mnist, "MD5", sums)
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(fashion_mnist, "SOURCES", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return contents


@pytest.fixture
def cache(files, tmp_path):
    return tmp_path / "cache" / "alexnet-trainer" / "fashion-mnist"


def write(files, folder, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def gives(files, packed=True):
    """A source that has these files."""
    return lambda scratch: write(files, scratch / "unpacked", packed)


def fails(error):
    """A source that breaks off with a part of the files."""

    def fetch(scratch):
        (scratch / f"{IMAGES}.gz").write_bytes(b"half of it")
        raise error

    return fetch


@pytest.fixture
def sources(files, monkeypatch):
    """Sets the sources."""
    return lambda **fetches: monkeypatch.setattr(fashion_mnist, "SOURCES", fetches)


def refusal(function, *arguments):
    with pytest.raises(ReportedError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("place", ["", "raw", "FashionMNIST/raw"])
def test_files_are_read_packed_or_not_and_where_torchvision_puts_them(
    files, tmp_path, place, packed
):
    write(files, tmp_path / "mine" / place, packed)
    train = open_dataset("fashion_mnist", "train", tmp_path / "mine")
    test = open_dataset("fashion_mnist", "test", tmp_path / "mine")
    assert (len(train), len(test)) == (3, 2)
    images, labels = train.read(torch.tensor([2, 0]))
    assert (images.shape, images.dtype) == ((2, 1, 28, 28), torch.uint8)
    assert bytes(images[0].flatten().tolist()) == files[IMAGES][16 + 2 * 784 :]
    assert bytes(images[1].flatten().tolist()) == files[IMAGES][16 : 16 + 784]
    assert (labels.tolist(), labels.dtype) == ([9, 7], torch.int64)
    assert test.read(torch.tensor([1, 0]))[1].tolist() == [2, 1]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_an_altered_file_is_refused_with_both_sums(files, tmp_path, name, packed):
    altered = bytearray(files[name])
    altered[-1] ^= 1
    write(files | {name: bytes(altered)}, tmp_path / "mine", packed)
    message = refusal(FashionMNIST, "train", tmp_path / "mine")
    assert str(tmp_path / "mine" / name) in message
    assert hashlib.md5(altered).hexdigest() in message
    assert hashlib.md5(files[name]).hexdigest() in message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:20] + bytes([packed[20] ^ 0xFF]) + packed[21:],
        lambda packed: packed[:10] + b"\xff" * 20,
        lambda packed: b"<html>not found</html>",
        lambda packed: b"",
    ],
    ids=["truncated", "one byte changed", "not compressed", "not gzip", "empty"],
)
def test_a_damaged_packed_file_is_refused(files, tmp_path, spoil):
    write(files, tmp_path / "mine", packed=True)
    damaged = tmp_path / "mine" / f"{IMAGES}.gz"
    damaged.write_bytes(spoil(damaged.read_bytes()))
    assert refusal(FashionMNIST, "train", tmp_path / "mine").startswith(f"{damaged} ")


@pytest.mark.parametrize("lacking", [0, 3], ids=["the first", "the last"])
def test_a_given_folder_without_all_files_is_refused_though_others_have_them(
    files, cache, sources, tmp_path, lacking
):
    write(files, cache)
    sources(anywhere=gives(files))
    mine = write(files, tmp_path / "mine")
    (mine / list(files)[lacking]).unlink()
    message = refusal(prepare, mine)
    assert message.startswith(f"{mine} ")
    assert all(name in message for name in files)


@pytest.mark.parametrize("folder", ["nowhere", "a file"])
def test_a_given_folder_that_is_none_is_refused(files, tmp_path, folder):
    (tmp_path / "a file").touch()
    assert refusal(prepare, tmp_path / folder).startswith(f"{tmp_path / folder} ")


def test_a_given_folder_comes_before_the_system_s_and_that_before_the_cache(files, cache, tmp_path):
    write(files, cache)
    assert prepare() == cache
    system = write(files, tmp_path / "system", packed=True)
    assert prepare() == system
    mine = write(files, tmp_path / "mine")
    assert prepare(mine) == mine


def test_a_download_is_made_once_and_found_afterwards(files, cache, sources):
    sources(only=gives(files))
    assert prepare() == cache
    sources()
    assert prepare() == cache
    assert len(FashionMNIST("test")) == 2
    assert {path.name for path in cache.iterdir()} == {".lock", *(f"{name}.gz" for name in files)}


def test_the_cache_lies_in_the_home_folder_unless_set_otherwise(
    files, sources, monkeypatch, tmp_path
):
    sources(only=gives(files))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare() == tmp_path / ".cache" / "alexnet-trainer" / "fashion-mnist"


def test_sources_are_tried_in_order_until_one_has_the_files(files, cache, sources):
    asked = []

    def noted(name, fetch):
        def noted_fetch(scratch):
            asked.append(name)
            return fetch(scratch)

        return noted_fetch

    sources(
        first=noted("first", fails(OSError("no route"))),
        second=noted("second", gives(files, packed=False)),
        third=noted("third", gives(files)),
    )
    assert prepare() == cache
    assert asked == ["first", "second"]
    assert {path.name for path in cache.iterdir()} == {".lock", *files}


def test_when_all_sources_fail_one_error_names_all_that_was_tried(cache, sources, tmp_path):
    sources(
        first=fails(OSError("no route\n to host")),
        second=fails(RuntimeError("file corrupted")),
        third=fails(IncompleteRead(b"abc", 5)),
    )
    message = refusal(prepare)
    tried = (tmp_path / "system", cache, "first: no route to host", "second: file corrupted")
    assert all(str(each) in message for each in (*tried, "third: IncompleteRead", "data.folder"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda files: {name: content + b"!" for name, content in files.items()},
        lambda files: {IMAGES: files[IMAGES]},
        lambda files: {},
        lambda files: files | {LABELS: files["t10k-labels-idx1-ubyte"]},
    ],
    ids=["all altered", "one of four", "none", "one altered"],
)
def test_wrong_files_of_a_source_are_rejected_and_the_next_is_tried(files, cache, sources, spoil):
    sources(wrong=gives(spoil(files)))
    assert "wrong: " in refusal(prepare)
    assert [path.name for path in cache.iterdir()] == [".lock"]
    sources(wrong=gives(spoil(files), packed=False), right=gives(files))
    assert prepare() == cache
    assert len(FashionMNIST("train")) == 3


@pytest.mark.parametrize("error", [OSError("no route"), KeyboardInterrupt(), KeyError("a bug")])
def test_nothing_half_written_stays_in_the_cache(cache, sources, error):
    sources(only=fails(error))
    with pytest.raises((ReportedError, type(error))):
        prepare()
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_refused(files, sources, monkeypatch, tmp_path):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    sources(only=gives(files))
    assert f"{tmp_path / 'a file'}/alexnet-trainer" in refusal(prepare)


def test_those_that_start_at_once_download_once(files, cache, sources):
    start, downloads = threading.Barrier(4), []

    def slow(scratch):
        downloads.append(scratch)
        time.sleep(0.2)
        return gives(files)(scratch)

    def prepare_with_the_others(_):
        start.wait(10)
        return prepare()

    sources(only=slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(prepare_with_the_others, range(4))) == [cache] * 4
    assert len(downloads) == 1


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Puts a shell script in the place of a command of the system."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


def test_debian_s_package_is_downloaded_and_unpacked(files, cache, sources, command, tmp_path):
    write(files, tmp_path / "packed", packed=True)
    installed = (tmp_path / "system").relative_to("/")
    command("apt-get", '[ "$*" = "download dataset-fashion-mnist" ] && touch dataset_1_all.deb')
    command(
        "dpkg-deb",
        f'[ "$*" = "-x dataset_1_all.deb ." ] && mkdir -p "{installed}" && '
        f'cp "{tmp_path}/packed/"* "{installed}"',
    )
    sources(debian=fashion_mnist._fetch_with_apt)
    assert prepare() == cache
    assert len(FashionMNIST("train")) == 3


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo W: careful >&2; echo E: no such package >&2; exit 100", "E: no such package"),
        ("exit 100", "status 100"),
        ("exit 0", "debian: "),
        ("touch one.deb", "cannot unpack"),
    ],
    ids=["complains", "is silent", "brings nothing", "brings no package"],
)
def test_the_reason_for_which_debian_s_package_cannot_be_had_is_told(
    files, sources, command, script, reason
):
    command("apt-get", script)
    command("dpkg-deb", "echo cannot unpack >&2; exit 2")
    sources(debian=fashion_mnist._fetch_with_apt)
    message = refusal(prepare)
    assert "debian: " in message
    assert reason in message


def test_a_system_without_apt_is_told(files, sources, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    sources(debian=fashion_mnist._fetch_with_apt)
    assert "'apt-get'" in refusal(prepare)


@pytest.mark.parametrize("works", [True, False])
def test_torchvision_downloads_under_a_timeout_that_ends_with_it(
    files, cache, sources, monkeypatch, works
):
    timeouts = []

    def download(root, download):
        timeouts.append(socket.getdefaulttimeout())
        if not works:
            raise TimeoutError("timed out")
        write(files, Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(fashion_mnist.datasets, "FashionMNIST", download)
    sources(torchvision=fashion_mnist._fetch_with_torchvision)
    if works:
        assert prepare() == cache
    else:
        assert "torchvision: timed out" in refusal(prepare)
    assert timeouts == [fashion_mnist.NETWORK_TIMEOUT]
    assert socket.getdefaulttimeout() is None
