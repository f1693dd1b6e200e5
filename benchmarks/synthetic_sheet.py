"""Draw the pictures of docs/synthetic.md: some people, and some images of each of a few.

python benchmarks/synthetic_sheet.py
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.drawing.camera import develop  # noqa: TID251
from data_prep.drawing.canvas import Pose  # noqa: TID251
from data_prep.drawing.person import Moment  # noqa: TID251
from data_prep.synthetic import faces, identity, portrait  # noqa: TID251

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def main() -> None:
    rng = np.random.default_rng(1)
    moment = Moment(smile=0.4, light=(-0.5, -0.4, 0.77))
    people = [portrait(identity(i), Pose(yaw=0.12), moment, 112, rng) for i in range(32)]
    _sheet([develop(image) for image in people], 8, 104).save(
        IMAGES / "synthetic_people.png", optimize=True
    )
    wanted = (7, 12, 24, 25, 27, 28)
    images = [
        Image.open(io.BytesIO(face.image))
        for number, face in enumerate(faces(max(wanted) + 1, 10))
        if number // 10 in wanted
    ]
    _sheet(images, 10, 84).save(IMAGES / "synthetic_faces.png", optimize=True)


def _sheet(images: Sequence[Image.Image], columns: int, side: int) -> Image.Image:
    sheet = Image.new("RGB", (columns * side, len(images) // columns * side))
    for number, image in enumerate(images):
        place = (number % columns * side, number // columns * side)
        sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), place)
    # A palette keeps the file small.
    return sheet.quantize(256, kmeans=3, dither=Image.Dither.FLOYDSTEINBERG)


if __name__ == "__main__":
    main()
