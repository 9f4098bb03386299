"""Reading ahead, and equal images of a model."""

import threading

import numpy as np
import pytest
import torch

from partloc.data.images import ImageError
from partloc.inference.image_loader import IMAGES_AHEAD, LoadedImage, PartDeduplicator, read_ahead


def make_image(value: int) -> LoadedImage:
    """An image of a box, whose height is `value` pixels of the thumbnail."""
    thumbnail = np.full((64, 64, 3), 255, np.uint8)
    thumbnail[8 : 8 + value, 8:56] = 0
    return LoadedImage(torch.zeros(3, 8, 8, dtype=torch.uint8), thumbnail, bytes([value]))


def test_the_next_images_are_read_while_the_last_one_is_used():
    started, all_started = [], threading.Event()

    def read(number: int) -> int:
        started.append(number)
        if number == IMAGES_AHEAD:
            all_started.set()
        return number

    images = read_ahead(read, range(100))
    assert next(images) == (0, 0)
    assert all_started.wait(10)  # without another request
    assert max(started) == IMAGES_AHEAD
    assert list(images) == [(number, number) for number in range(1, 100)]


def test_an_error_of_a_reader_is_raised_at_its_turn():
    images = read_ahead(lambda number: 1 / number, [1, 0, 1])
    assert next(images) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(images)


def test_equal_images_have_one_number_and_unreadable_ones_have_none():
    parts, error = PartDeduplicator(), ImageError("leg.png: damaged")
    images = [make_image(10), error, make_image(30), make_image(10)]
    assert [parts.add(image) for image in images] == [True, False, True, False]
    assert parts.errors == [None, error, None, None]
    assert parts.image_index == [0, 1, 0]


def test_twins_are_parts_whose_images_look_identical():
    parts = PartDeduplicator()
    for value in (10, 30, 10, 30, 50):
        parts.add(make_image(value))
    assert parts.twin_groups() == [[0, 2], [1, 3], [4]]


def test_twins_may_differ_in_a_few_pixels():
    parts, other = PartDeduplicator(), make_image(30)
    other.thumbnail[0, 0] = 254
    parts.add(make_image(30))
    assert parts.add(other._replace(digest=b"other"))
    assert parts.twin_groups() == [[0, 1]]
