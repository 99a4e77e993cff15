"""Quantities with units."""

from argparse import ArgumentTypeError

import pytest

from planning.quantities import duration, rate, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.5GB/s", 12.5e9),
        ("100Gbit/s", 12.5e9),
        ("100gbit", 12.5e9),
        ("100Gbps", 12.5e9),
        ("1 MB/s", 1e6),
        ("1MiB/s", 2**20),
        ("512KiB/s", 2**19),
        ("8Kbit/s", 1e3),
        ("8kbit/s", 1e3),
        ("1e9B/s", 1e9),
    ],
)
def test_rates_are_bytes_a_second(text, value):
    assert rate(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("20us", 2e-5), ("20µs", 2e-5), ("5 ms", 5e-3), ("0s", 0), ("1ns", 1e-9)]
)
def test_times_are_seconds(text, value):
    assert duration(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("80GB", 80e9), ("16GiB", 2**34), ("1B", 1)])
def test_sizes_are_bytes(text, value):
    assert size(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *(
            (rate, text)
            for text in ("", "12.5", "0GB/s", "-1GB/s", "nan", "1e30GB/s", "GB/s", "5us")
        ),
        *((duration, text) for text in ("", "20", "-1us", "20GB", "inf s")),
        *((size, text) for text in ("", "80", "0GB", "80Gbit", "80GB/s")),
    ],
)
def test_others_are_refused_by_name(read, text):
    with pytest.raises(ArgumentTypeError) as caught:
        read(text)
    assert repr(text) in str(caught.value)
