"""The demo's pictures, labels and layout agree with each other, and with themselves next time."""

import hashlib
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partloc.synthetic import dataset as demo_module
from partloc.synthetic.builder import Kit
from partloc.synthetic.camera import project
from partloc.synthetic.dataset import (
    DEMO,
    FAMILIES,
    HELD_OUT,
    MARKER,
    PRETRAINING,
    VISIBLE_SIZE,
    DemoModel,
    draw_model,
    draw_variants,
    label,
    part_mask,
    part_picture,
    scene,
    write_demo,
    write_model,
)
from partloc.synthetic.objects.bricks import STUD, brick_set
from partloc.synthetic.render import picture

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64  # pixels
COUNT = len(FAMILIES)  # one model of each family


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "made"
    write_demo(folder, COUNT, SIZE, seed=0, workers=0)
    return folder


@pytest.fixture(scope="module")
def models():
    return [draw_model(0, number) for number in range(COUNT)]


def test_every_file_is_one_of_the_three_kinds_of_the_layout(demo, models):
    expected = {MARKER}
    for model in models:
        start = f"{model.name}/{model.name}-"
        expected.add(f"{start}whole.png")
        for part in model.written:
            expected |= {f"{start}{part.name}.png", f"{start}{part.name}.json"}
    assert set(hashes(demo)) == expected


def test_each_family_comes_once_before_any_comes_twice(models):
    assert {model.family for model in models} == set(FAMILIES)
    assert len(FAMILIES) >= 10


def test_every_model_has_two_to_twelve_parts_with_names_of_their_own(models):
    for model in models:
        names = [part.name for part in model.parts]
        assert 2 <= len(model.written) <= 12
        assert len(set(names)) == len(names) and "whole" not in names


def test_names_hold_hyphens_dots_and_letters_beyond_ascii(models):
    folders = [model.name for model in models]
    parts = [part.name for model in models for part in model.written]
    for names in (folders, parts):
        assert any("-" in name for name in names)
        assert any("." in name for name in names)
        assert any(not name.isascii() for name in names)


def test_pictures_are_square_rgb_on_white_ground(demo):
    for path in demo.rglob("*.png"):
        image = Image.open(path)
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
        assert image.getpixel((0, 0)) == (255, 255, 255)


def test_labels_hold_finite_numbers_in_range(demo):
    for path in demo.rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert list(found) == ["translation", "rotation", "scale"]
        assert np.abs(found["translation"]).max() <= 0.5
        assert found["rotation"] == [1.0, 0.0, 0.0, 0.0]
        assert len(set(found["scale"])) == 1 and 0 < found["scale"][0] <= 1


def test_the_whole_is_centred_and_its_longest_side_is_one(models):
    for model in models:
        points = scene(model.parts)[0].reshape(-1, 3)
        low, high = points.min(0), points.max(0)
        assert (low + high) / 2 == pytest.approx(np.zeros(3), abs=1e-9)
        assert (high - low).max() == pytest.approx(1)


def test_a_parts_visible_pixels_lie_inside_its_labelled_box(models):
    """The label says only a cube round the part's centre; its picture must hold the part."""
    for model in models:
        mask = part_mask(model.parts, VISIBLE_SIZE)
        for number, part in enumerate(model.parts):
            if part not in model.written:
                continue
            pose = label(part)
            corners = np.array(list(product((-0.5, 0.5), repeat=3)))
            uv, _ = project(pose["scale"][0] * corners + np.array(pose["translation"]))
            rows, columns = np.nonzero(mask == number)
            pixels = np.stack([columns, rows], -1) + 0.5
            assert len(pixels) >= DEMO.min_visible
            assert (pixels >= uv.min(0) * VISIBLE_SIZE - 1).all(), (model.name, part.name)
            assert (pixels <= uv.max(0) * VISIBLE_SIZE + 1).all(), (model.name, part.name)


def test_scale_and_translation_carry_the_normalised_part_onto_the_whole(models):
    """whole = scale * part + translation, to the rounding of the label."""
    for model in models:
        for part in model.written:
            low, high = part.mesh.box()
            alone = (part.mesh.points - (low + high) / 2) / (high - low).max()
            pose = label(part)
            placed = pose["scale"][0] * alone + np.array(pose["translation"])
            assert placed == pytest.approx(part.mesh.points + part.at, abs=2e-6)


def test_a_part_alone_fills_its_frame_as_its_normalised_box_says(demo, models):
    for model in models[:8]:
        for part in model.written:
            low, high = part.mesh.box()
            uv, _ = project((part.mesh.points - (low + high) / 2) / (high - low).max())
            image = read(demo / model.name / f"{model.name}-{part.name}.png")
            rows, columns = np.nonzero((image < 255).any(-1))
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            expected = np.concatenate([uv.min(0), uv.max(0)]) * SIZE
            assert drawn == pytest.approx(expected, abs=1.5), (model.name, part.name)


def test_a_part_wears_the_same_colours_alone_and_in_the_whole(models):
    """Most of its pixels in the whole have a colour of its own picture; edges are mixed ones."""
    for model in models[::5]:
        triangles, colours, _ = scene(model.parts)
        whole = picture(triangles, colours, VISIBLE_SIZE)
        mask = part_mask(model.parts, VISIBLE_SIZE)
        for number, part in enumerate(model.parts):
            if part in model.written and model.visible[number] > 1000:
                alone = part_picture(part.mesh, VISIBLE_SIZE)
                known = {tuple(colour) for colour in alone.reshape(-1, 3).tolist()}
                seen = [tuple(colour) for colour in whole[mask == number].tolist()]
                assert np.mean([colour in known for colour in seen]) > 0.5, part.name


def test_equal_parts_have_pictures_that_are_equal_to_the_byte(demo, models):
    table_legs = wheels = 0
    for model in models:
        first = {}
        for part in model.written:
            data = (demo / model.name / f"{model.name}-{part.name}.png").read_bytes()
            twin = first.setdefault(id(part.mesh), data)
            assert twin == data
        wheels += model.family == "car" and len(first) < len(model.written)
        table_legs += model.family == "bench" and len(first) < len(model.written)
    assert wheels and table_legs


def test_parts_that_can_hardly_be_seen_have_no_sample_but_stay_in_the_whole(models):
    left_out = [
        (part, pixels)
        for model in models
        for part, pixels in zip(model.parts, model.visible, strict=True)
        if part not in model.written
    ]
    assert left_out
    assert all(
        pixels < DEMO.min_visible or label(part)["scale"][0] < 0.03 for part, pixels in left_out
    )


def test_some_written_parts_are_largely_hidden(models):
    """Less than a third of what would be seen without the others."""
    hidden = 0
    for model in models:
        for part, pixels in zip(model.parts, model.visible, strict=True):
            alone = (part_mask([part], VISIBLE_SIZE) == 0).sum()
            hidden += part in model.written and pixels < alone / 3
    assert hidden >= 5


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(demo, tmp_path):
    write_demo(tmp_path / "again", COUNT, SIZE, seed=0, workers=2)
    assert hashes(tmp_path / "again") == hashes(demo)


def test_a_models_bytes_do_not_depend_on_the_models_before_it(demo, tmp_path):
    number = 5
    write_model(tmp_path, SIZE, 0, number)
    alone = hashes(tmp_path)
    assert alone.items() <= hashes(demo).items() and alone


def test_another_seed_gives_other_models(models):
    other = draw_model(1, 0)
    assert label(other.parts[0]) != label(models[0].parts[0])


def test_an_earlier_demo_is_replaced_and_a_users_folder_is_refused(tmp_path):
    mine = tmp_path / "mine"
    (mine / "chair").mkdir(parents=True)
    (mine / "chair" / "chair-whole.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"mine: holds files but no {MARKER}"):
        write_demo(mine, 1, SIZE, seed=0, workers=0)
    assert (mine / "chair" / "chair-whole.png").read_bytes() == b"precious"

    made = tmp_path / "made"
    write_demo(made, 2, SIZE, seed=0, workers=0)
    write_demo(made, 1, SIZE, seed=0, workers=0)
    assert [path.name for path in made.iterdir() if path.is_dir()] == ["table-0000"]


def test_the_stage_says_what_it_made_and_what_is_wrong(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("demo: {num_models: 8, image_size: 32}\nmachine: {num_workers: 0}\n")
    command = [sys.executable, ROOT / "stages" / "demo.py", "--config", params, "--out"]
    good = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert "8 models" in good.stdout and "8 families" in good.stdout

    bad = subprocess.run([*command, params], capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ") and len(bad.stderr.splitlines()) == 1


# -- what pretraining sees ---------------------------------------------------------------------


def test_pretraining_draws_other_models_than_the_demo_and_leaves_families_out(models):
    assert PRETRAINING.stream != DEMO.stream
    assert len(HELD_OUT) >= 2 and set(HELD_OUT) <= set(FAMILIES)
    builders = {build for build, _ in PRETRAINING.families.values()}
    assert not builders & {FAMILIES[family][0] for family in HELD_OUT}
    assert builders > {build for name, (build, _) in FAMILIES.items() if name not in HELD_OUT}
    # A family of both, with the same seed and number: other meshes all the same.
    theirs = draw_model(0, 0, PRETRAINING)
    assert theirs.family == models[0].family
    shapes = [
        sorted(label(part)["scale"][0] for part in model.parts) for model in (theirs, models[0])
    ]
    assert shapes[0] != shapes[1]


def test_the_demo_s_test_pictures_are_in_no_pretraining_set(tmp_path):
    """Byte by byte, parts too: a box that both could hold has other colours and proportions."""
    write_demo(tmp_path / "demo", 60, SIZE, seed=0, workers=2)
    write_demo(tmp_path / "pretrain", 60, SIZE, 0, 2, PRETRAINING)
    ours, theirs = (
        {value for name, value in hashes(tmp_path / kind).items() if name.endswith(".png")}
        for kind in ("demo", "pretrain")
    )
    assert len(ours) > 200 and len(theirs) > 200 and not ours & theirs


def unknown(kind: str, count: int) -> list[DemoModel]:
    families = list(PRETRAINING.families)
    numbers = [i for i, family in enumerate(families) if family.startswith(kind)]
    return [draw_model(0, number, PRETRAINING) for number in numbers[:count]]


def test_two_thirds_of_what_pretraining_sees_are_of_no_known_kind():
    families = list(PRETRAINING.families)
    assert 3 * sum(family in FAMILIES for family in families) == len(families)
    for kind in ("composite", "linkage", "crowded", "bricks"):
        for model in unknown(kind, 4):
            assert len({id(part.mesh) for part in model.parts}) >= 2


@pytest.mark.parametrize("kind", ["composite", "crowded", "bricks"])
def test_they_have_equal_parts(kind):
    drawn = unknown(kind, 8)
    assert len(drawn) == 8
    assert sum(len({id(part.mesh) for part in m.parts}) < len(m.parts) for m in drawn) >= 3


def test_some_limbs_are_mirrored_left_and_right():
    mirrored = 0
    for model in unknown("linkage", 8):
        shapes = {tuple(np.ptp(part.mesh.points, axis=0).round(6)) for part in model.parts}
        mirrored += len(shapes) < len({id(part.mesh) for part in model.parts})
    assert mirrored >= 3


def test_bricks_stand_on_each_other_and_not_in_each_other():
    for kit in (Kit(np.random.default_rng(seed), False) for seed in range(5)):
        brick_set(kit)
        assert len(kit.parts) >= 5
        boxes = [(part.mesh.box()[0] + part.at, part.mesh.box()[1] + part.at) for part in kit.parts]
        for i, (low, high) in enumerate(boxes):
            high = high - [0, 0, STUD]  # studs reach into what stands on them
            others = [box for j, box in enumerate(boxes) if j != i]
            assert not any(
                ((low + 0.06 < top - [0, 0, STUD]) & (bottom + 0.06 < high)).all()
                for bottom, top in others
            )
            assert any(
                ((low < top + 0.01) & (bottom < high + STUD + 0.01)).all() for bottom, top in others
            )


def test_pretraining_has_more_and_smaller_parts_than_the_demo(models):
    drawn = [draw_model(0, number, PRETRAINING) for number in range(30)]
    sizes = [
        np.median([label(part)["scale"][0] for model in few for part in model.written])
        for few in (drawn, models)
    ]
    assert sizes[0] < 0.85 * sizes[1]
    assert max(len(model.written) for model in drawn) > 12


def test_an_interrupted_drawing_is_gone_on_with_and_an_other_one_is_not(tmp_path, monkeypatch):
    made = tmp_path / "made"
    write_demo(made, 4, SIZE, 0, 0, PRETRAINING)
    before = hashes(made)
    names = sorted(path.name for path in made.iterdir() if path.is_dir())
    shutil.rmtree(made / names[1])
    (made / f".{names[1]}").mkdir()  # what a kill leaves
    drawn = []
    draw = demo_module.draw_model
    monkeypatch.setattr(
        demo_module, "draw_model", lambda *asked: drawn.append(asked) or draw(*asked)
    )
    write_demo(made, 4, SIZE, 0, 0, PRETRAINING, resume=True)
    assert hashes(made) == before and len(drawn) == 1
    write_demo(made, 4, SIZE, 1, 0, PRETRAINING, resume=True)  # another seed
    assert len(drawn) == 5 and hashes(made) != before


def test_a_kill_while_an_earlier_demo_is_removed_leaves_what_the_next_call_removes(
    tmp_path, monkeypatch
):
    made = tmp_path / "made"
    write_demo(made, 4, SIZE, 0, 0, PRETRAINING)
    before = hashes(made)
    remove = shutil.rmtree
    calls = []

    def killed(*asked, **options) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(remove(*asked, **options))

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write_demo(made, 4, SIZE, 1, 0, PRETRAINING, resume=True)
    monkeypatch.undo()
    # Also where the old arguments come back: what is left is not taken for an unfinished drawing.
    drawn = []
    draw = demo_module.draw_model
    monkeypatch.setattr(
        demo_module, "draw_model", lambda *asked: drawn.append(asked) or draw(*asked)
    )
    write_demo(made, 4, SIZE, 0, 0, PRETRAINING, resume=True)
    assert hashes(made) == before and len(drawn) == 4


def test_variants_of_a_model_have_its_parts_in_other_proportions_paints_and_turns():
    def slender(part):
        """Height over width, whichever way it is turned."""
        low, high = part.mesh.box()
        corners = part.mesh.points[:300, :2]
        return (high - low)[2] / np.linalg.norm(corners[:, None] - corners, axis=-1).max()

    differ = {"proportions": 0, "paints": 0, "turns": 0}
    for number in range(12):
        variants = list(draw_variants(0, number, PRETRAINING, 3))
        names = [[part.name for part in parts] for parts in variants]
        assert names[0] == names[1] == names[2]
        first = [parts[0] for parts in variants]
        differ["proportions"] += len({round(slender(part), 3) for part in first}) > 1
        differ["paints"] += len({tuple(part.mesh.colours[0]) for part in first}) > 1
        far = int(np.argmax([np.linalg.norm(part.at[:2]) for part in variants[0]]))
        differ["turns"] += len({tuple(np.sign(parts[far].at[:2])) for parts in variants}) > 1
    assert min(differ.values()) > 6, differ
