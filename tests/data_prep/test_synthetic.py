from __future__ import annotations

import hashlib
import io
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.drawing import accidents, camera
from data_prep.drawing.canvas import Canvas, Pose, cover, outline, rounded_box
from data_prep.drawing.person import Moment, draw_moment, draw_person, draw_pose
from data_prep.synthetic import faces, identity, portrait
from facerec.data.images import decode
from facerec.data.shards import FaceImage


def _pixels(face: FaceImage) -> NDArray[np.float64]:
    return decode(face.image).astype(np.float64)


def _keyed(drawn: list[FaceImage]) -> dict[str, str]:
    return {face.key: hashlib.sha256(face.image).hexdigest() for face in drawn}


def test_the_seed_alone_decides_the_bytes() -> None:
    first = _keyed(list(faces(3, 2, 64, seed=5)))
    assert first == _keyed(list(faces(3, 2, 64, seed=5)))
    other = _keyed(list(faces(3, 2, 64, seed=6)))
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


def test_more_identities_or_images_change_none_of_the_others() -> None:
    small, large = _keyed(list(faces(2, 2, 64))), _keyed(list(faces(4, 3, 64)))
    assert len(small) == 4
    assert len(set(large.values())) == 12
    assert small.items() <= large.items()


def test_names_and_order() -> None:
    drawn = list(faces(2, 2, 64))
    assert [face.identity for face in drawn] == ["synthetic-00000"] * 2 + ["synthetic-00001"] * 2
    assert [face.key for face in drawn][1:3] == ["synthetic-00000/0001", "synthetic-00001/0000"]


@pytest.mark.parametrize("size", [16, 64, 112, 160])
def test_any_size_is_a_jpeg_that_decodes(size: int) -> None:
    for face in faces(2, 3, size):
        assert face.image[:2] == b"\xff\xd8"
        assert decode(face.image).shape == (size, size, 3)


def test_images_of_one_identity_differ() -> None:
    drawn = [_pixels(face) for face in faces(1, 6)]
    assert min(np.abs(a - b).mean() for a, b in pairwise(drawn)) > 8


def test_a_picture_is_the_same_face_at_any_size() -> None:
    """Edges are smooth: a large drawing, shrunk by area, is the small drawing."""
    person, pose, moment = identity(3), Pose(yaw=0.2, pitch=-0.1, roll=0.1), Moment(opening=4)
    large = portrait(person, pose, moment, 336, np.random.default_rng(1))
    small = portrait(person, pose, moment, 112, np.random.default_rng(1))
    shrunk = large.reshape(3, 112, 3, 112, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 0.02


@pytest.mark.parametrize(
    "pose",
    [
        Pose(),
        Pose(yaw=0.5, pitch=-0.3, roll=0.15, scale=1.08, x=3, y=-3),
        Pose(yaw=-0.4, pitch=0.25, roll=-0.2, scale=0.93, x=-3, y=4),
    ],
)
def test_windows_show_all_that_is_painted(pose: Pose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are painted in small windows for speed; on the whole canvas they look the same."""
    wide = Moment(smile=1.0, opening=7.0, gaze=1.0, brow_raise=-2.0)

    def draw(number: int) -> NDArray[np.floating]:
        person = identity(number)
        canvas = Canvas.over(person.outline, pose, 112)
        image = portrait(person, pose, wide, 112, np.random.default_rng(1))
        canvas.image[:] = image
        accidents.put_on(canvas, person, np.random.default_rng(4))
        return canvas.image.copy()

    windowed = [draw(number) for number in range(5)]
    monkeypatch.setattr(Canvas, "patch", lambda self, *_: self)
    for number, image in enumerate(windowed):
        np.testing.assert_allclose(draw(number), image, atol=0.02)


def test_features_lie_where_the_alignment_puts_them() -> None:
    """In a frontal drawing the pupils lie at about (38, 51) and (73, 51) of 112 pixels."""
    errors = []
    for number in range(40):
        person = identity(number)
        image = portrait(person, Pose(), Moment(), 112, np.random.default_rng(1)).mean(0)
        for x in (38.3, 73.5):
            low = int(x) - 7
            patch = image[45:58, low : low + 15]
            row, column = np.unravel_index(np.argmin(patch), patch.shape)
            errors.append((column + low + 0.5 - x, row + 45.5 - 51.6))
    assert np.abs(np.median(errors, axis=0)).max() < 2.0


def test_the_eyes_follow_a_turn_less_than_the_outline() -> None:
    """An aligned crop holds the face still; a turn moves the head's outline against it."""
    person = identity(1)
    left, right = (Canvas.over(person.outline, Pose(yaw=yaw), 112) for yaw in (-0.4, 0.4))
    middle = 112 * 52 // 112
    assert abs(int(np.argmin(np.abs(left.u[middle]))) - int(np.argmin(np.abs(right.u[middle])))) < 8
    assert left.edge[middle].argmin() - right.edge[middle].argmin() > 20


def test_outline_is_the_half_axes_at_the_ends() -> None:
    radii = outline(40.0, 66.0, 55.0, jaw=1.0, taper=0.0)
    assert radii.shape == (1024,)
    assert radii[0] == pytest.approx(66.0)
    assert radii[-1] == pytest.approx(55.0)
    assert radii[511:513] == pytest.approx(40.0, abs=0.2)


def test_coverage_and_distance_to_a_box() -> None:
    line = np.array([[-2.0, -0.5, 0.0, 0.25, 3.0]], np.float32)
    np.testing.assert_allclose(cover(line, 1.0), [[1, 1, 0.5, 0.25, 0]])
    x, y = np.array([[0.0, 7.0, 4.0]], np.float32), np.array([[0.0, 0.0, 6.0]], np.float32)
    np.testing.assert_allclose(rounded_box(x, y, 4.0, 3.0, 0.0), [[-3, 3, 3]])


def test_numbers_of_people_and_moments_stay_drawable() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        person, pose, moment = draw_person(rng), draw_pose(rng), draw_moment(rng)
        assert np.linalg.norm(moment.light) == pytest.approx(1.0)
        assert min(person.eye_width, person.eye_height, person.brow_weight, person.mouth_width) > 0
        assert min(person.upper_lip, person.lower_lip, person.nose_width, person.crease) > 0
        assert person.eye_u - person.eye_width > 1  # the eyes do not touch
        assert np.isfinite(person.outline).all()
        assert person.outline.min() > 20
        assert abs(pose.yaw) <= 0.5
        assert moment.blink <= 1


def test_a_photograph_keeps_the_picture() -> None:
    picture = np.zeros((3, 64, 64), np.float32)
    picture[:, :, 32:] = 0.8
    for seed in range(5):
        file = camera.photograph(picture, np.random.default_rng(seed))
        taken = np.asarray(Image.open(io.BytesIO(file)), np.float32).mean(2)
        assert taken[:, 36:].mean() > taken[:, :28].mean() + 60


def test_pixels_do_not_solve_it() -> None:
    """The nearest other image by pixels is of the same identity in under half of the cases."""
    people, images = 30, 5
    pixels = np.stack([_pixels(face) for face in faces(people, images, 56)])
    vectors = pixels.reshape(len(pixels), 28, 2, 28, 2, 3).mean((2, 4)).reshape(len(pixels), -1)
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    labels = np.arange(people).repeat(images)
    hits = (labels[cosines.argmax(1)] == labels).mean()
    assert 2 / people < hits < 0.5  # better than chance: there is something to see


@pytest.mark.slow
def test_an_identity_is_nearer_to_itself_than_to_others() -> None:
    """Under another light and a slight turn most people remain their own nearest neighbour."""
    one, two = [], []
    for number in range(150):
        person, rng = identity(number), np.random.default_rng(1)
        moment = Moment(light=(-0.5, -0.5, 0.7), ambient=0.6)
        one.append(portrait(person, Pose(yaw=-0.08), moment, 64, rng).ravel())
        rng, moment = np.random.default_rng(1), Moment(smile=0.7, opening=2.0)
        two.append(portrait(person, Pose(yaw=0.08, pitch=0.05), moment, 64, rng).ravel())
    first, second = np.stack(one), np.stack(two)
    first, second = first - first.mean(0), second - second.mean(0)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    cosines = first @ second.T
    within, between = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    assert np.quantile(within, 0.05) > np.quantile(between, 0.85)
    assert (cosines.argmax(1) == np.arange(len(cosines))).mean() > 0.75
    assert np.quantile(between, 0.99) > np.quantile(within, 0.2)  # yet some resemble each other
