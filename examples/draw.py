"""Draws the example images anew; needs the extra `demo` and OpenGL.

    $ python -m examples.draw

A bench: the pretraining of the shipped weights has seen none of its kind.
"""

import json
from pathlib import Path

from PIL import Image

from partloc.synthetic.dataset import sample_model
from partloc.synthetic.families import DEMO_FAMILIES, ObjectDistribution
from partloc.synthetic.render import render_image
from partloc.synthetic.scene import pose_label, render_part, scene_geometry
from partloc.system.cli import run_command

NAME, IMAGE_SIZE_PX, SEED, NUMBER = "bench", 256, 0, 4
PARTS = ("plank-1", "rail-1", "side-1", "side-2")  # the sides are twins
# The stream is not one of those for demo and pretraining.
OBJECTS = ObjectDistribution(stream=100, families={NAME: DEMO_FAMILIES[NAME]})


def draw(folder: Path) -> None:
    """Write the images and the labels of one model into `folder`."""
    model = sample_model(SEED, NUMBER, OBJECTS)
    folder.mkdir(exist_ok=True)
    triangles, colors, _ = scene_geometry(model.parts)
    whole = render_image(triangles, colors, IMAGE_SIZE_PX)
    Image.fromarray(whole).save(folder / f"{NAME}-whole.png", optimize=True)
    for part in model.sample_parts:
        if part.name not in PARTS:
            continue
        stem = f"{NAME}-{part.name}"
        image = Image.fromarray(render_part(part.mesh, IMAGE_SIZE_PX))
        image.save(folder / f"{stem}.png", optimize=True)
        (folder / f"{stem}.json").write_text(json.dumps(pose_label(part)) + "\n", encoding="utf-8")


def main() -> None:
    run_command(lambda: draw(Path(__file__).parent / NAME))


if __name__ == "__main__":
    main()
