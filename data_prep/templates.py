"""IJB-B and IJB-C as sources: faces that belong to templates, and what is compared with what.

The images are loosely cropped; each is aligned by the five points of its list when it is read,
and becomes a PNG. One that was aligned before stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.cuts import Options, Plan, Table, unlabelled
from data_prep.damage import Damage
from data_prep.ijb import Missing, lists, read_faces, read_gallery, read_pairs, read_probes
from data_prep.lines import Root
from data_prep.readers import Facts, digest, fingerprint, read_bytes
from data_prep.scan import Images
from facerec.data.align import SIZE, align
from facerec.data.shards import DataError, FaceImage
from facerec.data.template_set import FACES, PAIRS, SUBJECTS, Ints, Subjects

ALIGNMENT = f"five points, similarity by least squares to ArcFace's {SIZE} x {SIZE} template"
_IMAGES = "loose_crop"


class Templates:
    """The faces of an IJB set in the order of its lists.

    Args:
        root: insightface's layout: `loose_crop/` and `meta/`.

    Raises:
        DataError: a folder or a list is missing (those of 1:N may be), or not of its format.
    """

    def __init__(self, root: Path) -> None:
        images = root / _IMAGES
        if not images.is_dir():
            raise DataError(f"{images}: no such folder; it should hold the loose crops")
        self._images = Root(images)
        self._faces, self._pairs = read_faces(root), read_pairs(root)
        self._people: dict[str, Subjects] = {}
        remarks = []
        try:
            self._people = {"gallery": read_gallery(root), "probes": read_probes(root)}
        except Missing as error:
            remarks.append(f"1:1 alone, without 1:N: {error}")
        self.facts = Facts(
            kind="templates",
            name=root.resolve().name,
            fingerprint=fingerprint([ALIGNMENT, *map(digest, lists(root))]),
            alignment=ALIGNMENT,
            columns=FACES,
            image_size=(SIZE, SIZE),
            remarks=tuple(remarks),
        )

    def __len__(self) -> int:
        return len(self._faces.names)

    def __getitem__(self, position: int) -> FaceImage:
        faces, name = self._faces, self._faces.names[position]
        score = float(faces.detector_scores[position])
        try:
            if not np.isfinite(score):
                raise DataError(f"detector score {score}: a finite number is wanted")
            loose = read_bytes(self._images.find(name), name)
            image = align(loose, faces.landmarks[position])
        except DataError as error:
            raise DataError(error.reason, shard=self.facts.name, key=name) from error
        row = (int(faces.templates[position]), int(faces.media[position]), score)
        more = dict(zip((column for column, _ in FACES), row, strict=True))
        return FaceImage(image=image, identity="", key=name, more=more)

    def cut(self, images: Images, facts: Facts, options: Options, damage: Damage) -> Plan:
        """All faces in order; the pairs, gallery and probes of the templates that have some.

        Raises:
            DataError: a template that is named has no face, unless errors are skipped; or no pair
                is left.
        """
        known = np.unique(self._faces.templates[images.positions])
        left_out = images.total - len(images.positions)
        counts = {"images": images.total, "left_out": left_out, "templates": len(known)}

        def kept(what: str, *ids: Ints) -> NDArray[np.bool_]:
            has = [np.isin(column, known) for column in ids]
            cure = "" if damage.skip else "; --on-error skip leaves out what needs it"
            for row in np.flatnonzero(~np.logical_and.reduce(has)).tolist():
                alone = next(int(c[row]) for c, h in zip(ids, has, strict=True) if not h[row])
                damage.refuse(
                    DataError(
                        f"template {alone} of its {what} has no face{cure}",
                        shard=facts.name,
                        key=" ".join(str(column[row]) for column in ids),
                    )
                )
            all_have: NDArray[np.bool_] = np.logical_and.reduce(has)
            return all_have

        first, second = self._pairs.first, self._pairs.second
        whole = kept("pairs", first, second)
        if not whole.any():
            raise DataError(f"{facts.name}: no pair is left of which both templates have faces")
        pairs = (first[whole], second[whole], self._pairs.same[whole])
        counts["pairs_left_out"] = int((~whole).sum())
        tables = [_table("pairs", "template_pairs.parquet", PAIRS, pairs)]
        strangers = np.empty(0, np.int64)  # subjects whose templates in the gallery are all gone
        for name, people in self._people.items():
            strange = np.isin(people.subjects, strangers)
            good = kept(name, people.templates) & ~strange
            for row in np.flatnonzero(strange & np.isin(people.templates, known)).tolist():
                damage.refuse(
                    DataError(
                        f"subject {people.subjects[row]} of its {name} has no template left in "
                        f"the gallery",
                        shard=facts.name,
                        key=str(people.templates[row]),
                    )
                )
            if not good.any():
                raise DataError(f"{facts.name}: no template with a face is left in its {name}")
            counts[f"{name}_left_out"] = int((~good).sum())
            rows = (people.templates[good], people.subjects[good])
            tables.append(_table(name, f"{name}.parquet", SUBJECTS, rows))
            strangers = np.setdiff1d(people.subjects, rows[1])
        return Plan({"train": unlabelled(images.positions)}, counts, tuple(tables))


def _table(
    name: str,
    file: str,
    columns: tuple[tuple[str, pa.DataType], ...],
    values: tuple[NDArray[np.generic], ...],
) -> Table:
    return Table(("templates", name), file, pa.table(list(values), schema=pa.schema(columns)))
