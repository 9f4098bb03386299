"""The object families, and the two distributions of objects: demo and pretraining.

They have no family and no drawing function in common, so the demo measures what a training learns
about kinds of objects that the shipped weights have never seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from partloc.synthetic.builder import ObjectBuilder
from partloc.synthetic.objects import (
    bicycles,
    bricks,
    buildings,
    composites,
    construction,
    devices,
    furniture,
    instruments,
    linkages,
    machines,
    outdoors,
    robots,
    seats,
    vehicles,
)


class Family(NamedTuple):
    """A kind of object: the function that adds the parts of a random instance to a builder.

    irregular_name: model name with letters beyond ASCII, dots or hyphens, as in user data; some
        models have it instead of the key of the family.
    """

    build: Callable[[ObjectBuilder], None]
    irregular_name: str


# In this order, seed 0 puts every family into each split of the 234 models. An odd number of
# families, so that irregular names, of every fourth model, occur in all of them.
DEMO_FAMILIES = {
    "guitar": Family(instruments.guitar, "guitare.électrique"),
    "bench": Family(outdoors.bench, "bänk.2-sits"),
    "grill": Family(outdoors.grill, "grillgerät"),
    "clock": Family(devices.clock, "standuhr-süd"),
    "piano": Family(instruments.piano, "flügel.c-dur"),
    "bicycle": Family(bicycles.bicycle, "vélo.de-ville"),
    "swing": Family(outdoors.swing, "balançoire"),
    "excavator": Family(construction.excavator, "pelleteuse.à-chenilles"),
    "windmill": Family(outdoors.windmill, "windmühle"),
    "bridge": Family(construction.bridge, "brücke.n-4"),
    "crane": Family(construction.crane, "turmdrehkran.größe-3"),
    "camera": Family(devices.camera, "câmera.6x6"),
    "printer": Family(devices.printer, "impresora.3d"),
}
PRETRAINING_FAMILIES = {
    "table": Family(furniture.table, "küchentisch"),
    "car": Family(vehicles.car, "voiture.décapotable"),
    "robot-arm": Family(robots.robot_arm, "robot.v2"),
    "chair": Family(seats.chair, "stuhl.groß"),
    "aeroplane": Family(vehicles.aeroplane, "avión"),
    "blocks": Family(machines.blocks, "klötze.3d"),
    "bookcase": Family(furniture.bookcase, "bücherregal"),
    "house": Family(buildings.house, "hütte.am-see"),
    "engine": Family(machines.engine, "motor.1.6"),
    "lamp": Family(furniture.lamp, "lámpara"),
    "humanoid": Family(robots.humanoid, "roboter.größe-2"),
    "truck": Family(vehicles.truck, "camión"),
    "cabinet": Family(furniture.cabinet, "kommode.höhe-2"),
    "gearbox": Family(machines.gearbox, "getriebe.ü2"),
    "tower": Family(buildings.tower, "türmchen"),
    "boat": Family(vehicles.boat, "båt"),
    "desk": Family(furniture.desk, "bureau.équipé"),
    "flange": Family(machines.flange, "flansch.dn50"),
    "quadruped": Family(robots.quadruped, "hündin"),
    "drone": Family(vehicles.drone, "drohne.für-zwei"),
    "sofa": Family(seats.sofa, "canapé"),
    "vessel": Family(machines.vessel, "cafetière"),
    "bed": Family(seats.bed, "säng"),
    "cart": Family(robots.cart, "wägelchen"),
}
# Objects of no particular kind, for pretraining.
GENERIC_FAMILIES = {
    "composite": Family(composites.composite, "gefüge"),
    "linkage": Family(linkages.linkage, "gestänge"),
    "crowded": Family(composites.crowded, "gedränge"),
    "bricks": Family(bricks.brick_set, "baukasten"),
}


@dataclass(frozen=True)
class ObjectDistribution:
    """A distribution of objects that cycles through its families.

    Attributes:
        stream: separates the random numbers of distributions that share a seed.
        random_appearance: change proportions and colours after an object is built.
        min_visible_pixels: a part with fewer, in an image of `scene.VISIBILITY_IMAGE_SIZE`, gets
            no sample.
        part_limits: minimum and maximum number of parts with a sample, per model.
    """

    stream: int
    families: dict[str, Family]
    random_appearance: bool = False
    min_visible_pixels: int = 40
    part_limits: tuple[int, int] = (2, 12)


def _pretraining_families() -> dict[str, Family]:
    """One of PRETRAINING_FAMILIES, then two generic ones, in turn."""
    generic_pairs = [("composite", "linkage"), ("crowded", "bricks")]
    families = {}
    for i, (name, family) in enumerate(PRETRAINING_FAMILIES.items()):
        families[name] = family
        for generic in generic_pairs[i % 2]:
            families[f"{generic}-{i}"] = GENERIC_FAMILIES[generic]
    return families


DEMO_OBJECTS = ObjectDistribution(stream=7, families=DEMO_FAMILIES, part_limits=(4, 12))
# Parts may be smaller, more numerous and more occluded than in the demo, as in real assemblies.
PRETRAINING_OBJECTS = ObjectDistribution(
    stream=8,
    families=_pretraining_families(),
    random_appearance=True,
    min_visible_pixels=15,
    part_limits=(2, 24),
)
