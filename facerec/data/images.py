"""Encoded images to pixels: JPEG by simplejpeg (OpenCV where it is missing), all else by Pillow.

Pixels are RGB, 8 bit, height x width x 3, whatever the file holds: grey is repeated, transparency
is dropped, orientation marks are left alone. 16 bits per channel are refused: which 8 of them count
is not for a reader to guess. Damage is an error, never a short image filled up with grey.
"""

from __future__ import annotations

import io
import warnings
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from facerec.data.shards import DataError

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: OpenCV decodes at about the same speed
    simplejpeg = None

Encoded: TypeAlias = bytes | memoryview

LARGEST = 1 << 26  # pixels; a header that promises more is damaged or hostile
_JPEG = b"\xff\xd8\xff"
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # LARGEST is the stricter limit
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")


def decode(data: Encoded, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decodes one image.

    Args:
        data: the encoded file; a memoryview must be of unsigned bytes.
        out: where the pixels go, (H, W, 3), contiguous; a new array when None.

    Returns:
        RGB pixels (H, W, 3); `out` itself where it was given.

    Raises:
        DataError: the image is damaged, of an unknown format, or not of the size of `out`.
    """
    if out is not None and simplejpeg is not None and data[:3] == _JPEG:
        # What nearly all images are, without a look at the header first; the others come below.
        try:
            if simplejpeg.decode_jpeg(data, "RGB", buffer=out).shape == out.shape:
                return out
        except ValueError:
            pass
    width, height, plain = _header(data)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    elif out.shape != (height, width, 3):
        raise DataError(
            f"the image is {width} x {height}, but {out.shape[1]} x {out.shape[0]} is wanted"
        )
    if not plain:
        out[...] = _pillow(data)
    elif simplejpeg is not None:
        try:
            simplejpeg.decode_jpeg(data, "RGB", buffer=out)
        except ValueError as error:
            raise DataError(f"the JPEG is damaged: {error}") from error
    else:
        out[...] = _opencv(data)
    return out


def check(data: Encoded) -> tuple[int, int]:
    """Decodes one image as far as it takes to find every damage.

    Of a plain JPEG all bits are read, but pixels are made at an eighth of its size: 0.4 of the time
    of `decode`.

    Returns:
        Width and height in pixels.

    Raises:
        DataError: as `decode`.
    """
    width, height, plain = _header(data)
    if not plain:
        _pillow(data)
    elif simplejpeg is None:
        _opencv(data)
    else:
        try:
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
        except ValueError as error:
            raise DataError(f"the JPEG is damaged: {error}") from error
    return width, height


def size(data: Encoded) -> tuple[int, int]:
    """Width and height in pixels, read from the header without decoding.

    Raises:
        DataError: the header is damaged, of an unknown format, or promises over `LARGEST` pixels.
    """
    return _header(data)[:2]


def _header(data: Encoded) -> tuple[int, int, bool]:
    """Width, height, and whether this is a JPEG of the plain kind that the fast decoders know."""
    width = height = 0
    colours = ""
    if not len(data):
        raise DataError("the image is empty (0 bytes)")
    if simplejpeg is not None and data[:3] == _JPEG:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:  # damaged, or a legal but rare subsampling: Pillow can tell
            colours = ""
    plain = colours in ("YCbCr", "Gray", "RGB")
    if not plain:
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
                plain = simplejpeg is None and image.format == "JPEG" and image.mode != "CMYK"
        except Image.DecompressionBombError as error:
            raise DataError(f"the header promises over {LARGEST} pixels: {error}") from error
        except Exception as error:  # Pillow raises a dozen kinds on damaged files
            raise DataError(
                f"no readable image in {len(data)} bytes (JPEG, PNG, BMP, WebP, PPM)"
            ) from error
    if not 0 < width * height <= LARGEST:
        raise DataError(
            f"the header promises {width} x {height} pixels; at most {LARGEST} are taken"
        )
    return width, height, plain


def _pillow(data: Encoded) -> NDArray[np.uint8]:
    """Pillow's pixels; it also undoes the inversion of CMYK JPEGs (Adobe's convention)."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if _deep(image):
                raise ValueError("16 bits or more per channel: 8 bits per channel are wanted")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise DataError(f"the image is damaged: {error}") from error


def _deep(image: ImageFile.ImageFile) -> bool:
    """Whether channels have over 8 bits; Pillow itself cuts those of colours off at 8."""
    raw = image.tile[0][3] if image.tile else ""
    if isinstance(raw, tuple):  # PPM: mode and largest value
        return any(isinstance(value, int) and value > 255 for value in raw)
    return image.mode.startswith(("I", "F")) or ";16" in str(raw)


def _opencv(data: Encoded) -> NDArray[np.uint8]:
    """OpenCV's pixels, in RGB order; orientation marks are left alone, as the others do."""
    import cv2  # type: ignore[import-not-found,unused-ignore]

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DataError("the JPEG is damaged: OpenCV cannot decode it")
    return np.asarray(pixels[:, :, ::-1], dtype=np.uint8)
