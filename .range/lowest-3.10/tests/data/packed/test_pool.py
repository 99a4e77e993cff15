"""Workers that fail, or are killed."""

import multiprocessing
import threading

import pytest
from PIL import Image

from common.errors import ReportedError
from data.packed.index import UNFINISHED
from data.packed.pool import finish_all
from data.packed.shards import Task
from data.packed.source import list_source
from data.packed.storing import CONTINUE
from tests.data.packed.trees import SIZE
from tests.programs import wait_until


@pytest.fixture
def tasks(tree, tmp_path):
    (tmp_path / "target" / UNFINISHED).mkdir(parents=True)

    def all_of(shard):
        files = list_source(tree).splits["train"]
        return [
            Task("train", number, tree, files[first : first + shard], tmp_path / "target", SIZE)
            for number, first in enumerate(range(0, len(files), shard))
        ]

    return all_of


def test_records_come_in_the_order_of_the_tasks(tasks):
    asked = tasks(shard=1)
    records = finish_all(asked, workers=3)
    assert [record.labels for record in records] == [[task.files[0].label] for task in asked]


def test_a_worker_that_the_system_kills_is_reported(tree, tasks):
    asked = tasks(shard=20)
    Image.new("L", (9000, 9000)).save(tree / "large.png")
    for file in asked[0].files:  # seconds of work, while a worker is looked for
        (tree / file.path).unlink()
        (tree / file.path).hardlink_to(tree / "large.png")
    before = set(multiprocessing.active_children())

    def kill():
        def workers():
            return set(multiprocessing.active_children()) - before

        wait_until(workers)
        for worker in workers():
            worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ReportedError, match="--workers"):
        finish_all(asked, workers=1)
    killer.join()


def test_a_disk_that_refuses_ends_all_workers(tasks, tmp_path):
    asked = tasks(shard=1)
    (tmp_path / "target" / UNFINISHED).rmdir()
    before = set(multiprocessing.active_children())
    with pytest.raises(ReportedError, match=rf"target/train-.*{CONTINUE}"):
        finish_all(asked, workers=2)
    assert set(multiprocessing.active_children()) <= before
