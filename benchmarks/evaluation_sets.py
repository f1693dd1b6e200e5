"""The five small verification sets, against the bare forward passes of the same batches."""

from __future__ import annotations

import contextlib
import io
import pickle
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from evaluation_turns import TURNS, in_turns
from numpy.typing import NDArray

from data_prep.__main__ import main as data_prep  # noqa: TID251
from data_prep.synthetic import faces  # noqa: TID251
from facerec import backbones
from facerec.data.augment import normalise
from facerec.data.images import Encoded, decode
from facerec.data.shards import Shards
from facerec.evaluation import embed
from facerec.evaluation.figures.measure import Wanted
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.uncertain_folds import resample_verification

PAIRS = {"lfw": 6000, "cfp_fp": 7000, "agedb_30": 6000, "calfw": 6000, "cplfw": 6000}
BATCH = 128
DRAWS = 1000
IMAGES_EACH = 8  # of a drawn person
PEOPLE = 4000  # in the pairs of a full-size set


def small_sets(backbone: str, part: int, numbers: int = 512) -> dict[str, Any]:
    """`EvaluationSet.measure` with draws, all but decoding, against the backbone alone.

    The images are drawn faces in prepared sets. Decoded ones are handed over by their bytes in
    place of the decoder; everything else is what a user's evaluation does: reading the shards,
    batches, normalising, mirroring, distances, 10 folds, draws of identities.

    Args:
        backbone: Untrained, with 512 numbers.
        part: One in so many of the sets' pairs.
        numbers: Length of the embedding.
    """
    torch.manual_seed(1)
    net = backbones.build(backbone, {}, embedding_size=numbers).eval()
    with TemporaryDirectory() as folder:
        sets, images = _prepare(Path(folder), part)
        pixels = {image: decode(image) for some in images for image in some}
        batches = [
            normalise(torch.from_numpy(np.stack([pixels[image] for image in some[n : n + BATCH]])))
            for some in images
            for n in range(0, len(some), BATCH)
        ]

        def handed(data: Encoded, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
            np.copyto(out, pixels[bytes(data)])
            return out

        def ours(_: int) -> None:
            with mock.patch.object(embed, "decode", handed):
                for item in sets:
                    item.measure(net, batch_size=BATCH, wanted=Wanted(draws=DRAWS))

        def bare(_: int) -> None:
            with torch.inference_mode():
                for batch in batches:
                    net(batch)
                    net(batch.flip(3))

        result, _, _ = in_turns(ours, bare)
    count = sum(len(some) for some in images)
    decoding = _median(lambda: [decode(image) for some in images for image in some])
    drawing, rate = _median(_draw), count / statistics.median(result["reference"]["seconds"])
    passing = 2 * PAIRS["lfw"] / rate
    return result | {
        "images": count,
        "decoding_seconds": round(decoding, 3),
        "bare_images_per_second": round(rate, 2),
        "1000_draws_of_6000_pairs_seconds": round(drawing, 3),
        "bare_pass_of_12000_images_seconds": round(passing, 1),
        "pass / draws": round(passing / drawing, 2),
    }


def _prepare(folder: Path, part: int) -> tuple[list[EvaluationSet], list[list[bytes]]]:
    """The sets and their images in order; each pair has images of its own."""
    needed = sum(2 * pairs // part for pairs in PAIRS.values())
    people = -(-needed // IMAGES_EACH)
    rest = (face.image for face in faces(people, IMAGES_EACH))
    sets, images = [], []
    for name, pairs in PAIRS.items():
        some = [next(rest) for _ in range(2 * (pairs // part))]
        same = [pair % 2 == 0 for pair in range(len(some) // 2)]
        others = some[3::4]  # second images of the different pairs, of two per person
        some[3::4] = others[2:] + others[:2]
        path = folder / f"{name}.bin"
        path.write_bytes(pickle.dumps((some, same)))
        with contextlib.redirect_stdout(io.StringIO()):
            if data_prep(["bin", str(path), str(folder / name)]):
                raise SystemExit(f"{path} could not be prepared")
        sets.append(EvaluationSet(name, Shards(folder / name)))
        images.append(some)
    return sets, images


def _draw() -> None:
    """Intervals of a full-size set."""
    generator = np.random.default_rng(1)
    pairs = PAIRS["lfw"]
    same = np.arange(pairs) // 300 % 2 == 0
    ends = generator.integers(0, PEOPLE, (pairs, 2))
    ends[same, 1] = ends[same, 0]
    distances = np.where(same, 1.0, 1.9) + 0.25 * generator.standard_normal(pairs)
    resample_verification(np.clip(distances, 0, 4), same, ends, draws=DRAWS)


def _median(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TURNS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
