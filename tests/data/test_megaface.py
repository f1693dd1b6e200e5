"""Feature files for MegaFace's development kit, read back byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from facerec.data.megaface import clean_distractors, clean_probes, write_features

NAMES = ["Ada/1.jpg", "Ada/2.jpg", "Bea/1b.jpg", "Ada/3.jpg"]


def read_back(path: Path) -> tuple[tuple[int, ...], list[float]]:
    data = path.read_bytes()
    header = struct.unpack("<4i", data[:16])
    return header, list(struct.unpack(f"<{header[0]}f", data[16:]))


def test_files_as_the_kit_reads_them(tmp_path: Path) -> None:
    features = np.arange(12, dtype=np.float64).reshape(4, 3) / 7
    write_features(tmp_path / "facescrub", NAMES, features, "mine")
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == sorted(f"facescrub/{name}_mine.bin" for name in NAMES)
    header, numbers = read_back(tmp_path / "facescrub" / "Bea" / "1b.jpg_mine.bin")
    assert header == (3, 1, 4, 5)
    assert numbers == features[2].astype(np.float32).tolist()
    write_features(tmp_path / "megaface", ["a/b/c d.jpg"], features[:1])
    assert read_back(tmp_path / "megaface/a/b/c d.jpg_facerec.bin")[1][1] == np.float32(1 / 7)


def test_noisy_images_are_taken_out() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((4, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    probes = clean_probes(NAMES, features, [False, True, False, False])
    assert probes.shape == (4, 9)
    assert np.array_equal(probes[[0, 2, 3], :8], features[[0, 2, 3]])
    assert not probes[:, 8].any()
    center = features[0] + features[3]
    apart = probes[1, :8] * np.linalg.norm(center) - center
    assert 0 < np.abs(apart).max() < 0.003
    assert np.linalg.norm(probes[1]) == pytest.approx(1, rel=1e-6)
    distractors = clean_distractors(features[:2], [False, True])
    assert np.array_equal(distractors[:, :8], features[:2])
    assert distractors[:, 8].tolist() == [0.0, 100.0]
    with pytest.raises(ValueError, match="all images of Bea are noisy"):
        clean_probes(NAMES, features, [False, False, True, False])
    with pytest.raises(ValueError, match=r"noisy \(3,\) for 4 images"):
        clean_probes(NAMES, features, [True] * 3)


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    for name in ("../x", "/x", "a//x", "a/./x"):
        with pytest.raises(ValueError, match="relative paths"):
            write_features(tmp_path / "out", [name], np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"features \(1, 2\) for 2 images"):
        write_features(tmp_path / "out", ["a/b", "a/c"], np.ones((1, 2)))
    assert not list(tmp_path.rglob("*.bin"))
