"""From a picture to a photograph: exposure, focus, distance, grain and JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from data_prep.drawing.canvas import Plane


def photograph(image: Plane, rng: np.random.Generator) -> bytes:
    """Take a photograph of a picture (3, size, size) in [0, 1]; return a JPEG file."""
    size = image.shape[1]
    gain, contrast = 1 + rng.uniform(-0.32, 0.22), 1 + rng.uniform(-0.32, 0.22)
    lift = 0.5 - 0.5 * contrast + rng.uniform(-0.08, 0.08)
    warm, green = rng.uniform(-0.13, 0.13), rng.uniform(-0.04, 0.04)
    cast = np.array((1 + warm - green, 1 + green, 1 - warm - green), np.float32)
    image = image * (gain * contrast * cast[:, None, None]) + lift
    if rng.random() < 0.08:
        grey = image[0] * 0.299 + image[1] * 0.587 + image[2] * 0.114
        image = np.broadcast_to(grey, image.shape)
    picture = develop(image)
    softness = min(rng.exponential(0.42), 2.2) * size / 112
    if softness > 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(softness))
    if rng.random() < 0.15:  # seen from afar
        small = int(size * rng.uniform(0.3, 0.6))
        picture = picture.resize((small, small), Image.Resampling.BOX)
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    grain = min(rng.exponential(0.045), 0.16)
    noise = (rng.random((3, size, size), np.float32) - 0.5) * grain
    exposed = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255 + noise
    return jpeg(develop(exposed), int(rng.integers(45, 96)))


def develop(image: Plane) -> Image.Image:
    """Round a picture (3, h, w) in [0, 1] to 8 bits."""
    scaled = image * 255 + 0.5
    return Image.fromarray(np.clip(scaled, 0, 255, out=scaled).astype(np.uint8).transpose(1, 2, 0))


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
