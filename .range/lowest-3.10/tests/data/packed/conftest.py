"""Folders of image files, and what is packed of them."""

import pytest

from tests.data.packed.trees import add_odd_files, make_tree, pack_tree


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture
def odd_tree(tree):
    return add_odd_files(tree)


@pytest.fixture
def packed(tree, tmp_path):
    return pack_tree(tree, tmp_path / "packed")[0]
