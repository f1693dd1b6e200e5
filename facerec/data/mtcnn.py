"""MTCNN, a cascade of three networks that finds faces and five points of each.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
2016. P-Net judges every square of an image at many sizes, R-Net and O-Net judge again what the one
before let through. Steps and thresholds are those of facenet-pytorch, whose weights it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from facerec.data.detect import Faces, Pixels
from facerec.data.mtcnn_boxes import (
    CELL,
    STRIDE,
    Floats,
    Sums,
    coarse,
    crops,
    keep,
    moved,
    scales,
    shrunk,
    squared,
    sums,
)
from facerec.data.mtcnn_nets import PLANS, CascadeNet, load_nets

SMALLEST = 20  # pixels: the smallest face that is looked for
LARGEST_SIDE = 1280  # pixels of the longer side of what P-Net sees at once
_THRESHOLDS = {"pnet": 0.6, "rnet": 0.7, "onet": 0.7}
_SAME_SCALE, _OVERLAP = 0.5, 0.7  # limits of non-maximum suppression
_CROPS = 512  # that R-Net or O-Net sees at once
_PIXELS = 1 << 19  # of all images that P-Net sees at once, at their finest scale: more is slower
LARGEST = 1 << 23  # pixels of an image; a larger one is shrunk by 2, 3, ... first


class Mtcnn:
    """Finds faces by three networks.

    The images of one call share the networks' passes: P-Net's those of one size, R-Net's and
    O-Net's all of them.

    Args:
        nets: P-Net, R-Net and O-Net; by default with the weights that are installed.
        smallest: side in pixels of the smallest face that is looked for, 12 or more. In an image
            whose longer side is over `LARGEST_SIDE * smallest / 12` pixels (2133 for 20) it grows
            in proportion.
        folder: of the weight files; by default where `find_weights` finds them.

    Raises:
        DataError: there are no weights.
        ValueError: too small a face.
    """

    def __init__(
        self,
        nets: Sequence[CascadeNet] | None = None,
        *,
        smallest: int = SMALLEST,
        folder: Path | None = None,
    ) -> None:
        if smallest < CELL:
            raise ValueError(f"a smallest face of {smallest} pixels: {CELL} or more is wanted")
        self.smallest = smallest
        self._nets = dict(zip(PLANS, nets or load_nets(folder), strict=True))

    def detect(self, images: Sequence[Pixels]) -> list[Faces]:
        """Finds the faces of each image, by falling score.

        Args:
            images: RGB, (H, W, 3), of any sizes; some 20 bytes of memory are taken for a pixel.
        """
        if not images:
            return []
        times = [math.ceil(math.sqrt(image[..., 0].size / LARGEST)) for image in images]
        pairs = zip(images, times, strict=True)
        tables = [sums(coarse(image, by) if by > 1 else image) for image, by in pairs]
        with torch.inference_mode():
            found = self._refined(tables, self._proposed(tables, times))
        return [_enlarged(own, by) if by > 1 else own for own, by in zip(found, times, strict=True)]

    def _proposed(self, tables: list[Sums], times: list[int]) -> list[Floats]:
        """P-Net's boxes (n, 4) of each image, which was shrunk by `times`."""
        sizes: dict[tuple[int, int, int], list[int]] = {}
        for number, (table, by) in enumerate(zip(tables, times, strict=True)):
            sizes.setdefault((table.shape[0] - 1, table.shape[1] - 1, by), []).append(number)
        found: list[Floats] = [np.empty((0, 4), np.float32)] * len(tables)
        for (height, width, by), alike in sizes.items():
            steps = scales(height, width, max(CELL, self.smallest / by), LARGEST_SIDE)
            if not steps:
                continue
            pixels = max(1.0, height * width * steps[0] ** 2)
            at_once = max(1, int(_PIXELS / pixels))
            for first in range(0, len(alike), at_once):
                some = alike[first : first + at_once]
                boxes = self._proposed_alike([tables[number] for number in some], steps)
                for number, own in zip(some, boxes, strict=True):
                    found[number] = own
        return found

    def _proposed_alike(self, tables: list[Sums], steps: list[float]) -> list[Floats]:
        """The same of images of one size: `keep` within a scale, then over all of them."""
        height, width = tables[0].shape[0] - 1, tables[0].shape[1] - 1
        each: list[list[Floats]] = [[] for _ in tables]  # rows of box, score, offsets
        for scale in steps:
            size = int(height * scale + 1), int(width * scale + 1)
            scores, offsets = self._run("pnet", np.stack([shrunk(t, *size) for t in tables]))
            image, y, x = np.nonzero(scores >= np.float32(_THRESHOLDS["pnet"]))
            corner = np.stack([x, y], axis=1).astype(np.float32) * STRIDE + 1
            start, end = (np.floor((corner + more) / np.float32(scale)) for more in (0, CELL - 1))
            score = scores[image, y, x][:, None]
            rows = np.concatenate([start, end, score, offsets[image, :, y, x]], axis=1)
            for number, own in enumerate(each):
                some = rows[image == number]
                own.append(some[keep(some[:, :4], some[:, 4], _SAME_SCALE)])
        return [_settled(np.concatenate(own)) for own in each]

    def _refined(self, tables: list[Sums], proposed: list[Floats]) -> list[Faces]:
        """What R-Net and O-Net leave of P-Net's boxes."""
        boxes, scores, offsets = self._judged("rnet", tables, proposed)
        for number, (own, score, offset) in enumerate(zip(boxes, scores, offsets, strict=True)):
            kept = keep(own, score, _OVERLAP)
            boxes[number] = squared(moved(own[kept], offset[kept]))
        faces = []
        for own, score, offset, place in zip(*self._judged("onet", tables, boxes), strict=True):
            size = own[:, None, 2:] - own[:, None, :2] + 1
            points = place.reshape(-1, 2, 5).swapaxes(1, 2) * size + own[:, None, :2] - 1
            corrected = moved(own, offset)
            kept = keep(corrected, score, _OVERLAP, by_smaller=True)
            faces.append(Faces(corrected[kept], points[kept], score[kept]))
        return faces

    def _judged(self, name: str, tables: list[Sums], boxes: list[Floats]) -> list[list[Floats]]:
        """What a network lets through: boxes, scores, offsets, and its points where it has them.

        Each is a list over the images, whose crops go through the network together.
        """
        pairs = zip(tables, boxes, strict=True)
        cut, inside = zip(*(crops(t, own, PLANS[name].side) for t, own in pairs), strict=True)
        boxes = [own[some] for own, some in zip(boxes, inside, strict=True)]
        squares = np.concatenate(cut)
        parts = [
            self._run(name, squares[at : at + _CROPS])
            for at in range(0, max(1, len(squares)), _CROPS)
        ]
        outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
        ends = np.cumsum([len(own) for own in boxes])[:-1]
        each = [boxes, *(np.split(output, ends) for output in outputs)]
        through = [score > np.float32(_THRESHOLDS[name]) for score in each[1]]
        return [[own[some] for own, some in zip(e, through, strict=True)] for e in each]

    def _run(self, name: str, images: Floats) -> list[Floats]:
        """A network's outputs for (b, H, W, 3)."""
        found = self._nets[name](torch.from_numpy(images).permute(0, 3, 1, 2))
        return [output.numpy() for output in found]


def _settled(rows: Floats) -> Floats:
    """P-Net's boxes of all scales, suppressed, corrected and made square."""
    rows = rows[keep(rows[:, :4], rows[:, 4], _OVERLAP)]
    return squared(moved(rows[:, :4], rows[:, 5:], both_ends=0))


def _enlarged(faces: Faces, times: int) -> Faces:
    """Faces of an image before it was shrunk: centres of pixels are at whole numbers."""
    middle = np.float32((times - 1) / 2)
    return Faces(faces.boxes * times + middle, faces.points * times + middle, faces.scores)
