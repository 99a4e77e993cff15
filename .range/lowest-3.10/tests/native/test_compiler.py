"""Kernels are compiled once for all processes, and not needed where they cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from native import compiler as native
from native.compiler import load_kernels

SOURCE = 'extern "C" int answer() { return 42; }'


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_kernels.cache_clear()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE)
    return path


def answer(source):
    kernels = load_kernels(source)
    assert kernels is not None
    return kernels.answer()


def kept(tmp_path):
    return list((tmp_path / "cache").rglob("*.so"))


def test_compiled_once_and_anew_when_the_source_changes(source, tmp_path):
    assert answer(source) == 42
    (first,) = kept(tmp_path)
    made = first.stat().st_mtime_ns
    load_kernels.cache_clear()
    assert answer(source) == 42
    assert first.stat().st_mtime_ns == made
    source.write_text(SOURCE.replace("42", "43"))
    load_kernels.cache_clear()
    assert answer(source) == 43
    assert len(kept(tmp_path)) == 2


def test_processes_at_once_do_not_disturb_each_other(source, tmp_path):
    program = "import sys, pathlib; from native.compiler import load_kernels\n"
    program += "print(load_kernels(pathlib.Path(sys.argv[1])).answer())"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(source)],
            cwd=Path(native.__file__).parents[1],
            env={**os.environ, "PYTHONPATH": "."},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [process.communicate()[0] for process in started] == ["42\n"] * 4
    assert len(kept(tmp_path)) == 1
    assert [path.name for path in kept(tmp_path)[0].parent.iterdir()] == [kept(tmp_path)[0].name]


@pytest.mark.parametrize("cause", ["no compiler", "an error in the source", "no place to keep it"])
def test_where_it_cannot_be_compiled_that_is_said_once(cause, source, monkeypatch, caplog):
    if cause == "no compiler":
        monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    elif cause == "an error in the source":
        source.write_text("this is not C++")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert load_kernels(source) is None
    assert load_kernels(source) is None
    (said,) = caplog.messages
    assert "answer.cpp" in said
    assert "\n" not in said


def test_without_a_home_to_keep_them_in(source, monkeypatch, caplog):
    def nobody(number):
        raise KeyError(number)

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert load_kernels(source) is None
    assert "XDG_CACHE_HOME" in caplog.text
