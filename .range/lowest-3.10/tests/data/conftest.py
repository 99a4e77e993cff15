"""Folders of small pictures."""

from pathlib import Path

import pytest
from PIL import Image


def save_picture(path: Path, color="white", size=(40, 30), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Eight training and two test pictures of two classes, each of a grey of its own."""
    for number in range(8):
        name = f"train/{'ant' if number < 4 else 'bee'}/{number}.png"
        save_picture(tmp_path / name, (number, number, number))
    save_picture(tmp_path / "test/ant/8.png", (8, 8, 8))
    save_picture(tmp_path / "test/bee/9.png", (9, 9, 9))
    return tmp_path
