"""Small sources for the tests: encoded images, and RecordIO written by code of its own."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = bytes.fromhex("0a23d7ce")


class Silent:
    """A `Tell` that keeps what was said."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, task: str, total: int) -> None: ...

    def advance(self, images: int) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def jpeg(
    seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB", form: str = "JPEG"
) -> bytes:
    """A smooth random image of (width, height), encoded."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    sink = io.BytesIO()
    small.resize(size, Image.Resampling.BILINEAR).convert(mode).save(sink, form)
    return sink.getvalue()


def payload(
    label: float | Sequence[float], image: bytes, number: int = 0, second: int = 0
) -> bytes:
    """An IRHeader with a scalar or an array of labels, then the image."""
    if isinstance(label, Sequence):
        head = struct.pack("<IfQQ", len(label), 0.0, number, second)
        return head + struct.pack(f"<{len(label)}f", *label) + image
    return struct.pack("<IfQQ", 0, label, number, second) + image


def part(content: bytes, cflag: int = 0) -> bytes:
    """One part of a record, padded."""
    word = cflag << 29 | len(content)
    return MAGIC + struct.pack("<I", word) + content + bytes(-len(content) % 4)


def record(content: bytes) -> bytes:
    """A record as MXNet writes it: split at each aligned magic word, which is dropped."""
    pieces, start = [], 0
    for at in range(0, len(content) - 3, 4):
        if content[at : at + 4] == MAGIC:
            pieces.append(content[start:at])
            start = at + 4
    pieces.append(content[start:])
    if len(pieces) == 1:
        return part(content)
    flags = [1] + [2] * (len(pieces) - 2) + [3]
    return b"".join(part(piece, flag) for piece, flag in zip(pieces, flags, strict=True))


def write_records(
    folder: Path, payloads: Mapping[int, bytes], prop: str | None = None, name: str = "train"
) -> Path:
    """Writes records in the order given; the index in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    rec, idx = bytearray(), ""
    for key, content in payloads.items():
        idx += f"{key}\t{len(rec)}\n"
        rec += record(content)
    (folder / f"{name}.rec").write_bytes(rec)
    (folder / f"{name}.idx").write_text(idx)
    if prop is not None:
        (folder / "property").write_text(prop)
    return folder


def layout_a(images: Sequence[tuple[int, bytes]]) -> dict[int, bytes]:
    """Records of layout A: header, images in order of their labels, identity records."""
    labels = [label for label, _ in images]
    end = len(images) + 1
    records = {0: payload([end, end + len(set(labels))], b"")}
    for key, (label, image) in enumerate(images, 1):
        records[key] = payload(float(label), image, number=key)
    for slot, label in enumerate(sorted(set(labels))):
        first = 1 + labels.index(label)
        records[end + slot] = payload([first, first + labels.count(label)], b"", number=end + slot)
    return records


def people(identities: int, images: int) -> list[tuple[int, bytes]]:
    """Labels and images, `images` of each identity, all different."""
    return [(n, jpeg(1000 * n + k)) for n in range(identities) for k in range(images)]


def write_folder(root: Path, names: Sequence[str], images: int) -> Path:
    """One folder per name with numbered images."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(images):
            (root / name / f"{k:04d}.jpg").write_bytes(jpeg(1000 * number + k))
    return root
