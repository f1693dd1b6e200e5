from __future__ import annotations

from data_prep.drawn import Drawn
from data_prep.synthetic import faces


def test_drawn_faces_are_read_in_any_order() -> None:
    wanted = list(faces(3, 2, 48, 5))
    source = Drawn(3, 2, 48, 5)
    assert len(source) == 6
    for position in (4, 0, 5, 1, 2, 3, 4):
        face = source[position]
        assert (face.image, face.identity, face.key) == (
            wanted[position].image,
            wanted[position].identity,
            wanted[position].key,
        )


def test_fingerprint_follows_what_is_drawn() -> None:
    assert Drawn(2, 1, 48, 5).facts.fingerprint == Drawn(3, 2, 48, 5).facts.fingerprint
    assert Drawn(2, 1, 48, 5).facts.fingerprint != Drawn(2, 1, 48, 6).facts.fingerprint
