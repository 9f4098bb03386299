"""The distributions of objects: families, names, twins, and pretraining apart from the demo."""

from itertools import chain, product
from pathlib import Path

import numpy as np
import pytest

from partloc.config import load_config
from partloc.data.split import SPLITS, split_models
from partloc.synthetic.builder import ObjectBuilder, Part
from partloc.synthetic.dataset import (
    IRREGULAR_NAME_INTERVAL,
    SyntheticModel,
    family_and_name,
    has_irregular_names,
    sample_model,
    sample_variants,
    write_dataset,
)
from partloc.synthetic.families import (
    DEMO_FAMILIES,
    DEMO_OBJECTS,
    GENERIC_FAMILIES,
    PRETRAINING_FAMILIES,
    PRETRAINING_OBJECTS,
)
from partloc.synthetic.objects.bricks import STUD_HEIGHT, brick_set
from partloc.synthetic.scene import count_visible_pixels, pose_label, scene_geometry

ROOT = Path(__file__).resolve().parents[2]


def num_meshes(model: SyntheticModel) -> int:
    return len({id(part.mesh) for part in model.parts})


def generic_models(kind: str, count: int) -> list[SyntheticModel]:
    """The first pretraining models of one of GENERIC_FAMILIES."""
    families = enumerate(PRETRAINING_OBJECTS.families)
    numbers = [number for number, family in families if family.startswith(kind)]
    return [sample_model(0, number, PRETRAINING_OBJECTS) for number in numbers[:count]]


def test_models_cycle_through_the_families(models):
    assert [model.family for model in models] == list(DEMO_FAMILIES)
    assert len(DEMO_FAMILIES) >= 10


def test_a_model_has_4_to_12_samples_and_unique_part_names(models_by_family):
    for model in chain(*models_by_family.values()):
        names = [part.name for part in model.parts]
        assert 4 <= len(model.sample_parts) <= 12
        assert len(set(names)) == len(names) and "whole" not in names


def test_some_names_contain_hyphens_dots_and_letters_beyond_ascii(models):
    model_names = [model.name for model in models]
    part_names = [part.name for model in models for part in model.sample_parts]
    for names in (model_names, part_names):
        assert any("-" in name for name in names)
        assert any("." in name for name in names)
        assert any(not name.isascii() for name in names)


def test_every_family_has_models_with_irregular_names():
    numbers = range(IRREGULAR_NAME_INTERVAL * len(DEMO_FAMILIES))
    irregular = {family_and_name(n, DEMO_OBJECTS)[0] for n in numbers if has_irregular_names(n)}
    assert irregular == set(DEMO_FAMILIES)


def test_every_family_is_in_each_split_of_the_demo():
    config = load_config(ROOT / "params.yaml")
    families = [family_and_name(n, DEMO_OBJECTS) for n in range(config.demo.num_models)]
    ratios = (config.data.train_ratio, config.data.val_ratio, config.data.test_ratio)
    split = split_models([name for _, name in families], ratios, config.seed)
    found = {(family, split[name]) for family, name in families}
    assert found == set(product(DEMO_FAMILIES, SPLITS))


def test_every_family_has_twins(models_by_family):
    for family, models in models_by_family.items():
        twins = [
            len(model.sample_parts) - len({id(part.mesh) for part in model.sample_parts})
            for model in models
        ]
        assert sum(twins) >= 2, family


def test_in_most_families_a_part_is_hidden_but_for_a_small_share(models_by_family):
    """Less than 0.4 of the pixels that would be visible without the other parts."""
    hidden = set()
    for model in chain(*models_by_family.values()):
        for part, visible_pixels in zip(model.parts, model.visible_pixels, strict=True):
            if (
                part in model.sample_parts
                and visible_pixels < 0.4 * count_visible_pixels([part])[0]
            ):
                hidden.add(model.family)
    assert len(hidden) > len(DEMO_FAMILIES) / 2


def test_every_part_touches_another_one_or_the_ground(models_by_family):
    """Their bounding boxes do, up to 1 % of the size of the model."""
    for model in chain(*models_by_family.values()):
        boxes = np.array([[c + part.position for c in part.mesh.bounds()] for part in model.parts])
        low, high = boxes[:, 0], boxes[:, 1]  # (P, 3) each
        touches = ((low[:, None] <= high + 0.01) & (low <= high[:, None] + 0.01)).all(-1)  # (P, P)
        supported = low[:, 2] < low[:, 2].min() + 0.01
        for _ in model.parts:
            supported |= touches[supported].any(0)
        assert supported.all(), [model.parts[i].name for i in np.flatnonzero(~supported)]


def test_models_of_a_family_have_different_proportions(models_by_family):
    for family, models in models_by_family.items():
        largest = [
            np.ptp(scene_geometry(model.parts)[0].reshape(-1, 3), axis=0) for model in models
        ]
        slenderness = [np.sort(size)[0] for size in largest]
        assert max(slenderness) > 1.1 * min(slenderness), family


def test_demo_and_pretraining_have_no_family_in_common():
    demo, pretraining = DEMO_OBJECTS.families, PRETRAINING_OBJECTS.families
    assert PRETRAINING_OBJECTS.stream != DEMO_OBJECTS.stream
    assert not set(demo) & set(pretraining)
    builders, pretraining_builders = (
        {family.build for family in families.values()} for families in (demo, pretraining)
    )
    assert not builders & pretraining_builders
    assert pretraining_builders == {
        family.build for family in (PRETRAINING_FAMILIES | GENERIC_FAMILIES).values()
    }


def test_pretraining_models_have_the_proportions_that_the_shipped_weights_were_trained_on():
    """A change of a family, of the order or of the random numbers would change them."""
    scales = [
        pose_label(part)["scale"][0]
        for number in range(len(PRETRAINING_OBJECTS.families))
        for part in sample_model(0, number, PRETRAINING_OBJECTS).sample_parts
    ]
    assert (len(scales), sum(scales)) == (784, pytest.approx(232.24041, abs=1e-4))


def test_no_image_of_the_demo_is_in_the_pretraining_set(tmp_path):
    """Not even of a part: a box that both have differs in colours and proportions."""

    def write_and_read(folder: Path, distribution) -> set[bytes]:
        write_dataset(folder, 60, 48, seed=0, workers=0, distribution=distribution)
        return {path.read_bytes() for path in folder.rglob("*.png")}

    demo = write_and_read(tmp_path / "demo", DEMO_OBJECTS)
    pretraining = write_and_read(tmp_path / "pretrain", PRETRAINING_OBJECTS)
    assert len(demo) > 200 and len(pretraining) > 200 and not demo & pretraining


def test_two_thirds_of_the_pretraining_families_are_generic():
    families = list(PRETRAINING_OBJECTS.families)
    assert 3 * sum(family in PRETRAINING_FAMILIES for family in families) == len(families)
    for kind in GENERIC_FAMILIES:
        assert all(num_meshes(model) >= 2 for model in generic_models(kind, 4))


@pytest.mark.parametrize("kind", ["composite", "crowded", "bricks"])
def test_generic_models_have_twins(kind):
    sampled = generic_models(kind, 8)
    assert len(sampled) == 8
    assert sum(num_meshes(model) < len(model.parts) for model in sampled) >= 3


def test_some_limbs_of_linkages_are_mirrored():
    mirrored = 0
    for model in generic_models("linkage", 8):
        sizes = {tuple(np.ptp(part.mesh.points, axis=0).round(6)) for part in model.parts}
        mirrored += len(sizes) < num_meshes(model)
    assert mirrored >= 3


@pytest.mark.parametrize("seed", range(5))
def test_bricks_touch_others_and_do_not_intersect(seed):
    builder = ObjectBuilder(np.random.default_rng(seed))
    brick_set(builder)
    assert len(builder.parts) >= 5
    boxes = [[corner + part.position for corner in part.mesh.bounds()] for part in builder.parts]
    for i, (low, high) in enumerate(boxes):
        high = high - [0, 0, STUD_HEIGHT]  # studs are inside the bricks on top of them
        others = [box for j, box in enumerate(boxes) if j != i]
        assert not any(
            ((low + 0.06 < top - [0, 0, STUD_HEIGHT]) & (bottom + 0.06 < high)).all()
            for bottom, top in others
        )
        assert any(
            ((low < top + 0.01) & (bottom < high + STUD_HEIGHT + 0.01)).all()
            for bottom, top in others
        )


def test_pretraining_models_have_more_and_smaller_parts(models):
    pretraining_models = [sample_model(0, number, PRETRAINING_OBJECTS) for number in range(30)]
    pretraining_scale, demo_scale = (
        np.median([pose_label(part)["scale"][0] for model in group for part in model.sample_parts])
        for group in (pretraining_models, models)
    )
    assert pretraining_scale < 0.85 * demo_scale
    assert max(len(model.sample_parts) for model in pretraining_models) > 12


def slenderness(part: Part) -> float:
    """Height over horizontal diameter, which does not change with a rotation about z."""
    low, high = part.mesh.bounds()
    points = part.mesh.points[:300, :2]
    return (high - low)[2] / np.linalg.norm(points[:, None] - points, axis=-1).max()


def test_variants_have_the_same_parts_in_other_proportions_colours_and_rotations():
    differences = {"proportions": 0, "colours": 0, "rotations": 0}
    for number in range(12):
        variants = list(sample_variants(0, number, PRETRAINING_OBJECTS, 3))
        names = [[part.name for part in parts] for parts in variants]
        assert names[0] == names[1] == names[2]
        first = [parts[0] for parts in variants]
        differences["proportions"] += len({round(slenderness(part), 3) for part in first}) > 1
        differences["colours"] += len({tuple(part.mesh.colors[0]) for part in first}) > 1
        far = int(np.argmax([np.linalg.norm(part.position[:2]) for part in variants[0]]))
        quadrants = {tuple(np.sign(parts[far].position[:2])) for parts in variants}
        differences["rotations"] += len(quadrants) > 1
    assert min(differences.values()) > 6, differences
