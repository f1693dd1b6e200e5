from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from facerec.data import images
from facerec.data.images import check, decode, size
from facerec.data.shards import DataError


def picture(width: int = 24, height: int = 16) -> Image.Image:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


def encode(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_what_pillow_reads(mode: str) -> None:
    data = encode(picture().convert(mode), quality=90)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert size(data) == (24, 16)
    assert np.abs(decode(data).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("BMP", "RGB"), ("PPM", "L")]
)
def test_lossless_formats_are_exact(form: str, mode: str) -> None:
    image = picture().convert(mode)
    data = encode(image, form)
    assert size(data) == (24, 16)
    np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


def test_cmyk_is_not_inverted() -> None:
    white = encode(Image.new("RGB", (16, 16), "white").convert("CMYK"))
    assert decode(white).min() > 250


def test_decodes_into_the_buffer_it_is_given() -> None:
    data = encode(picture())
    batch = np.zeros((2, 16, 24, 3), np.uint8)
    assert np.shares_memory(decode(memoryview(data), batch[1]), batch)
    np.testing.assert_array_equal(batch[1], decode(data))
    assert not batch[0].any()


def test_another_size_than_the_buffer_names_both() -> None:
    with pytest.raises(DataError, match=r"the image is 24 x 16, but 16 x 16 is wanted"):
        decode(encode(picture()), np.empty((16, 16, 3), np.uint8))


def test_damage_is_an_error_never_a_short_image() -> None:
    for data in (encode(picture()), encode(picture(), "PNG"), encode(picture().convert("CMYK"))):
        decode(data)
        for damaged in (data[: len(data) // 2], data[:100] + bytes(len(data)), data[:3]):
            with pytest.raises(DataError, match=r"damaged|no readable image"):
                decode(damaged)


@pytest.mark.parametrize(("data", "message"), [(b"", "0 bytes"), (b"hello", "5 bytes")])
def test_what_is_no_image_says_so(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(data)
    with pytest.raises(DataError, match=message):
        size(data)


def test_sixteen_bits_are_refused() -> None:
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    with pytest.raises(DataError, match="8 bits per channel"):
        decode(encode(deep, "PNG"))


def test_a_header_that_promises_too_much_allocates_nothing() -> None:
    data = bytearray(encode(picture()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\x00\xff\x00"
    with pytest.raises(DataError, match="promises 65280 x 65280 pixels; at most"):
        decode(bytes(data))


def test_opencv_takes_over_where_simplejpeg_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    data = encode(picture(), quality=95)
    wanted = decode(data).astype(int)
    monkeypatch.setattr(images, "simplejpeg", None)
    assert np.abs(decode(data).astype(int) - wanted).max() <= 2
    assert size(data) == (24, 16)
    with pytest.raises(DataError, match="damaged"):
        decode(data[:-40])


def check_agrees(data: bytes) -> bool:
    """Whether `check` and `decode` say the same of these bytes; gives whether they are good."""
    said = []
    for function in (decode, check):
        try:
            function(data)
            said.append(True)
        except DataError:
            said.append(False)
    assert said[0] == said[1], data[:20]
    return said[0]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_check_finds_what_decoding_finds(options: dict[str, object]) -> None:
    whole = encode(picture(40, 30), quality=80, **options)
    assert check(whole) == (40, 30)
    rng = np.random.default_rng(1)
    good = 0
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        for _ in range(int(rng.integers(1, 4))):
            if data:
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
        good += check_agrees(bytes(data))
    assert 5 < good < 145
    for form, mode in (("PNG", "P"), ("JPEG", "CMYK"), ("WEBP", "RGB")):
        data = encode(picture().convert(mode), form)
        assert check(data) == (24, 16)
        assert not check_agrees(data[: len(data) // 2])


def test_palettes_transparency_and_marks() -> None:
    """What stands in a file beside its colours changes nothing of them."""
    image = picture()
    wanted = np.asarray(image)
    clear = image.copy()
    clear.putalpha(Image.new("L", image.size, 40))
    np.testing.assert_array_equal(decode(encode(clear, "PNG")), wanted)
    grey = image.convert("L")
    faint = Image.merge("LA", [grey, Image.new("L", image.size, 0)])
    np.testing.assert_array_equal(decode(encode(faint, "PNG"))[:, :, 1], np.asarray(grey))
    palette = image.quantize(7)
    palette.info["transparency"] = 3
    rgb = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), rgb)
    one_bit = encode(grey.convert("1"), "PNG")
    assert set(np.unique(decode(one_bit))) == {0, 255}
    mark = Image.Exif()
    mark[0x0112] = 6  # to be turned by 90 degrees
    for form in ("JPEG", "PNG"):
        turned = encode(image, form, exif=mark)
        assert size(turned) == (24, 16)
        np.testing.assert_array_equal(decode(turned), decode(encode(image, form)))


def test_sixteen_bits_of_colours_are_refused_too() -> None:
    deep = b"P6 2 2 65535\n" + bytes(24)
    for function in (decode, check):
        with pytest.raises(DataError, match="8 bits per channel"):
            function(deep)
