"""Every kind of image file becomes one square of 8 bits, upright and without a word."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import ReportedError
from data.decoding import FORMATS, decode
from tests.programs import run

SIZE = 16
RAMP = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE)
EXPECTED = RAMP.astype(np.uint16) >> 8


def save_numbers(path, dtype, factor=1.0, **options):
    Image.fromarray((RAMP * factor).astype(dtype)).save(path, **options)
    return str(path)


def grey(path):
    red, green, blue = decode(path, SIZE).numpy()
    assert (red == green).all()
    assert (green == blue).all()
    return red


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", np.int32, np.float32])
def test_a_tiff_of_16_bits_is_read_alike_in_every_mode(tmp_path, dtype, compression):
    path = save_numbers(tmp_path / "one.tif", dtype, compression=compression)
    assert (grey(path) == EXPECTED).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_every_mode_of_pil_with_16_bits_is_read_alike(tmp_path, mode):
    try:
        Image.new(mode, (20, 30), 120 * 256 + 255).save(tmp_path / "one.tif")
    except OSError as error:  # older versions of Pillow write fewer modes than they read
        pytest.skip(str(error))
    assert (grey(str(tmp_path / "one.tif")) == 120).all()


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint16), ("pgm", np.int32)])
def test_other_formats_of_16_bits_are_read_like_tiff(tmp_path, suffix, dtype):
    assert (grey(save_numbers(tmp_path / f"one.{suffix}", dtype)) == EXPECTED).all()


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(np.float32, 1 / 65535), (np.float32, 255 / 65535), (np.int32, 255 / 65535)],
)
def test_numbers_of_a_smaller_range_are_read_alike(tmp_path, dtype, factor):
    difference = grey(save_numbers(tmp_path / "one.tif", dtype, factor)).astype(int) - EXPECTED
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("signed", [True, False])
def test_integers_of_32_bits_are_read_to_their_upper_byte(tmp_path, signed):
    top = np.iinfo(np.int32 if signed else np.uint32).max
    numbers = (RAMP / 65535 * top).astype(np.int64).astype(np.uint32)
    path = tmp_path / "one.tif"
    content = io.BytesIO()
    Image.fromarray(numbers.view(np.int32)).save(content, "TIFF")
    of_signed = b"\x53\x01\x03\0\x01\0\0\0\x02"  # the tag 339
    stored = content.getvalue()
    assert of_signed in stored
    path.write_bytes(stored if signed else stored.replace(of_signed, of_signed[:-1] + b"\x01"))
    assert (grey(str(path)) == numbers >> 24).all()


def test_numbers_below_0_are_black(tmp_path):
    numbers = np.where(RAMP < 32768, -1, 32768).astype(np.int32)
    Image.fromarray(numbers).save(tmp_path / "one.tif")
    assert (grey(str(tmp_path / "one.tif")) == np.where(RAMP < 32768, 0, 128)).all()


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e20])
def test_numbers_without_a_range_are_refused(tmp_path, number):
    path = tmp_path / "one.tif"
    Image.fromarray(np.full((4, 4), number, np.float32)).save(path)
    with pytest.raises(ReportedError, match=str(path)):
        decode(str(path), SIZE)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_listed_is_decoded(tmp_path, name):
    for suffix in FORMATS[name]:
        path = tmp_path / f"one{suffix}"
        Image.new("L", (20, 30), 200).save(path, name)
        assert abs(grey(str(path)).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_a_viewer_shows_them(tmp_path, suffix, orientation):
    upright = torch.zeros(SIZE, SIZE, dtype=torch.int)
    upright[: SIZE // 2, : SIZE // 2] = 200  # the upper left quarter is bright,
    upright[: SIZE // 2, SIZE // 2 :] = 100  # and the upper right one grey
    stored = {  # from what is shown to what is stored
        1: upright,
        2: upright.flip(1),
        3: upright.rot90(2),
        4: upright.flip(0),
        5: upright.T,
        6: upright.rot90(1),
        7: upright.rot90(2).T,
        8: upright.rot90(-1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"one.{suffix}"
    Image.fromarray(stored.to(torch.uint8).numpy()).save(path, exif=exif, quality=100)
    difference = decode(str(path), SIZE, channels=1)[0].int() - upright
    assert difference.abs().float().mean() < 5


def test_a_deep_picture_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = save_numbers(tmp_path / "one.png", np.uint16, exif=exif)
    assert (grey(path) == EXPECTED[::-1, ::-1]).all()


DAMAGED_EXIF = (
    *(b"Exif\0\0", b"Exif\0\0no such data"),
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0",
)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", DAMAGED_EXIF)
def test_damaged_exif_data_do_not_spoil_a_picture(tmp_path, exif):
    path = tmp_path / "one.jpg"
    Image.new("L", (20, 30), 200).save(path, exif=exif)
    assert abs(grey(str(path)).astype(int) - 200).max() <= 2


def test_no_decoder_says_anything_without_the_file_s_name(tmp_path):
    palette = Image.new("P", (20, 30), 1)
    palette.putpalette([0, 0, 0, 200, 200, 200])
    palette.save(tmp_path / "palette.png", transparency=b"\xff\x80")
    Image.new("L", (20, 30)).save(tmp_path / "exif.jpg", exif=DAMAGED_EXIF[-1])
    content = io.BytesIO()
    Image.new("RGB", (20, 30)).save(content, "TIFF")
    of_99_channels = b"\x15\x01\x03\x00\x01\0\0\0\x63"
    samples = content.getvalue().replace(of_99_channels[:-1] + b"\x03", of_99_channels)
    assert samples != content.getvalue()
    (tmp_path / "channels.tif").write_bytes(samples)
    read = "import logging, sys; logging.basicConfig()\nfrom data.decoding import decode"
    for name, refused in (("palette.png", False), ("exif.jpg", False), ("channels.tif", True)):
        path = tmp_path / name
        status, out, err = run(sys.executable, "-c", f"{read}\ndecode({str(path)!r}, 8)")
        assert (status, out) == (int(refused), "")
        lines = err.splitlines()
        if refused:
            assert str(path) in lines[-1]
            lines = lines[: lines.index("Traceback (most recent call last):")]
        assert lines == []
