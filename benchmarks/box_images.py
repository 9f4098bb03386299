"""Images of coloured boxes on white, drawn without a renderer."""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

NUM_SOURCES, LINKED_PARTS = 64, 10  # of write_linked_samples: distinct images, parts of a model


def random_boxes(
    rng: np.random.Generator,
    side_px: int,
    count: int = 1,
    corner: tuple[int, int] = (2, 14),
    size: tuple[int, int] = (2, 14),
) -> np.ndarray:
    """Image of `count` boxes, (S, S, 3) uint8; corners and sizes, px, are drawn from ranges."""
    pixels = np.full((side_px, side_px, 3), 255, np.uint8)
    for _ in range(count):
        top, left = rng.integers(*corner, 2)
        height, width = rng.integers(*size, 2)
        pixels[top : top + height, left : left + width] = rng.integers(0, 200, 3)
    return pixels


def write_linked_samples(folder: Path, num_samples: int) -> None:
    """Write `num_samples` labelled parts under `folder`/images, LINKED_PARTS of each model.

    The files are hard links to NUM_SOURCES different images and labels, so that a million samples
    fit on a disk. The last four parts of a model are twins.
    """
    rng = np.random.default_rng(0)
    images, sources = folder / "images", folder / "sources"
    images.mkdir()
    sources.mkdir()
    for number in range(NUM_SOURCES):
        Image.fromarray(random_boxes(rng, 32)).save(sources / f"{number}.png")
        translation = rng.uniform(-0.4, 0.4, 3).round(3).tolist()
        label = {"translation": translation, "rotation": [1, 0, 0, 0], "scale": [0.3] * 3}
        (sources / f"{number}.json").write_text(json.dumps(label))
    for model in range(num_samples // LINKED_PARTS):
        stem = f"{images}/model-{model:07d}/model-{model:07d}-"
        os.mkdir(os.path.dirname(stem))
        os.link(sources / f"{model % NUM_SOURCES}.png", f"{stem}whole.png")
        for part in range(LINKED_PARTS):
            number = (model + 1 + min(part, 6)) % NUM_SOURCES
            os.link(sources / f"{number}.png", f"{stem}part-{part}.png")
            os.link(sources / f"{number}.json", f"{stem}part-{part}.json")
