"""Signals held back while a process is started."""

import signal
import subprocess
from subprocess import TimeoutExpired

from launch.signals import SIGNALS, Interrupted, held_signals, interrupt_on_signals

import pytest

from launch import children


@pytest.fixture(autouse=True)
def handlers():
    """Have signals raise Interrupted, as in a program; later as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interrupt_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_held_signal_comes_when_it_is_released(number):
    with held_signals() as release:
        signal.raise_signal(number)
        with pytest.raises(Interrupted) as caught:
            release()
    assert caught.value.number == number


def test_a_held_signal_comes_at_the_end_of_the_body():
    with pytest.raises(Interrupted), held_signals():
        signal.raise_signal(signal.SIGTERM)


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with held_signals() as release:
        signal.raise_signal(signal.SIGHUP)
        release()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(("told", "ending"), [(True, Interrupted), (False, TimeoutExpired)])
def test_a_launch_ends_at_a_signal_while_it_starts_and_after_its_time(monkeypatch, told, ending):
    started = []

    def slow_to_start(arguments, quietly):
        started.append(subprocess.Popen(["sleep", "600"], stderr=subprocess.PIPE))
        if told:
            signal.raise_signal(signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(children, "_started", slow_to_start)
    with pytest.raises(ending):
        children.run_launcher([], quietly=True, timeout=0.1)
    assert started[0].returncode == -signal.SIGTERM
