"""A sample drawn with its labelled and its predicted pose."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor, ImageDraw
from samples import SIDE_CAMERA, make_predictions

from partloc.drawing import (
    LABEL_COLOR,
    OVERSAMPLING,
    PREDICTION_COLOR,
    WHOLE_PX,
    _font,
    draw_case,
    draw_marks,
    project_pose,
)


def center_of(image: Image.Image, color: str) -> np.ndarray:
    """Centre of the bounding box of all pixels of a colour, (x, y) in 0..1."""
    rows, columns = np.nonzero((np.asarray(image) == ImageColor.getrgb(color)).all(-1))
    box = [columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]
    return np.array(box) / 2 / image.size


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (50, 90)])
def test_marks_are_where_the_camera_sees_the_poses(size):
    predictions, white = make_predictions(1), Image.new("RGB", size, "white")
    image = draw_marks(white, white, predictions.loc[0], predictions[1:], SIDE_CAMERA)
    # The position across the image, by the distance relative to that of the whole's centre.
    labelled, predicted = np.array([0.1, -0.1]) / 0.9, np.array([-0.2, 0.0]) / 1.15
    assert max(image.size) == WHOLE_PX * OVERSAMPLING
    # The line between both marks ends at the label's mark, whose box is therefore the circle's.
    assert center_of(image, LABEL_COLOR) == pytest.approx((labelled + 1) / 2, abs=0.01)
    case = predictions.loc[0].copy()
    case[["tx", "ty", "tz", "scale"]] = [-0.2, 0.3, 0.0, 0.1]
    image = draw_marks(white, white, case, predictions[1:], SIDE_CAMERA)
    assert center_of(image, PREDICTION_COLOR) == pytest.approx((predicted + 1) / 2, abs=0.01)


def test_the_part_is_pasted_where_it_was_predicted():
    """Its image covers one model unit as that of the whole does, and is reduced by its scale."""
    case = make_predictions(1).loc[0].copy()
    case[["predicted_tx", "predicted_ty", "predicted_tz", "predicted_scale"]] = [0.2, 0, -0.1, 0.5]
    part = Image.new("RGB", (40, 40), "white")
    part.paste("black", (10, 10, 30, 30))
    white = Image.new("RGB", (100, 100), "white")
    image = draw_marks(white, part, case, make_predictions(0), SIDE_CAMERA)
    rows, columns = np.nonzero(np.asarray(image).max(-1) == 0)
    side = WHOLE_PX * OVERSAMPLING
    assert (columns.min() / side, columns.max() / side) == pytest.approx((0.475, 0.725), abs=0.01)
    assert (rows.min() / side, rows.max() / side) == pytest.approx((0.425, 0.675), abs=0.01)


def test_a_circle_is_as_wide_as_the_part_appears():
    mark = project_pose(np.array([0.0, 0.0, 0.0, 0.4]), SIDE_CAMERA, (100, 80))
    assert mark == pytest.approx((50, 40, 10))  # 0.4 of half the width is 20 pixels
    nearer = project_pose(np.array([0.0, -1.0, 0.0, 0.4]), SIDE_CAMERA, (100, 80))
    assert nearer.radius == pytest.approx(20)


def test_a_pose_behind_the_camera_is_not_drawn():
    assert project_pose(np.array([0.0, -1.95, 0.0, 0.4]), SIDE_CAMERA, (100, 80)) is None
    assert project_pose(np.array([0.0, -3.0, 0.0, 0.4]), SIDE_CAMERA, (100, 80)) is None
    orthographic = SIDE_CAMERA._replace(inverse_distance=torch.zeros(()))
    assert project_pose(np.array([0.0, -3.0, 0.0, 0.4]), orthographic, (100, 80)) is not None


def test_a_pose_outside_the_image_is_no_error():
    case = make_predictions(1).loc[0].copy()
    case[["predicted_tx", "predicted_ty", "predicted_tz", "predicted_scale"]] = [4, -3, 9, 7.0]
    draw_case("worst-1", case, make_predictions(0), *[Image.new("RGB", (9, 7))] * 2, SIDE_CAMERA)


def test_without_a_camera_no_pose_is_drawn_and_the_image_says_so():
    case = make_predictions(1).loc[0]
    images = [Image.new("RGB", (90, 90), "white")] * 2
    sheets = [
        np.asarray(draw_case("best-1", case, make_predictions(0), *images, camera))
        for camera in (SIDE_CAMERA, None)
    ]
    whole = [sheet[:, : WHOLE_PX + 16] for sheet in sheets]
    assert len(np.unique(whole[0])) > len(np.unique(whole[1]))
    assert (whole[1][20:-20, 20:] >= 208).all()  # white, and the frame
    note = (slice(WHOLE_PX - 20, None), slice(WHOLE_PX + 40, None))
    assert (sheets[0][note] != sheets[1][note]).any()


def test_the_font_has_letters_beyond_ascii():
    unknown = _font(20).getmask("\ufffe")
    for letter in "üéßøłšğЖα…":
        mask = _font(20).getmask(letter)
        assert bytes(mask) != bytes(unknown)
    canvas = Image.new("L", (100, 40))
    ImageDraw.Draw(canvas).text((0, 0), "é", 255, _font(20))
    assert np.asarray(canvas).any()
