"""The files of a data set: layout, labels, images, determinism, resumption and replacement."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partloc.commands import demo as demo_command
from partloc.synthetic import dataset
from partloc.synthetic.builder import Part
from partloc.synthetic.camera import DEMO_CAMERA
from partloc.synthetic.dataset import (
    MARKER_NAME,
    MIN_SCALE,
    SyntheticModel,
    family_and_name,
    sample_model,
    write_dataset,
    write_model,
)
from partloc.synthetic.families import DEMO_FAMILIES, DEMO_OBJECTS, PRETRAINING_OBJECTS
from partloc.synthetic.render import render_image
from partloc.synthetic.scene import (
    VISIBILITY_IMAGE_SIZE,
    pose_label,
    render_part,
    render_part_indices,
    scene_geometry,
)
from partloc.system.files import locked_folder

SIZE = 64  # pixels
NUM_MODELS = len(DEMO_FAMILIES)  # one model of each family


def file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def parts_with_visibility(model: SyntheticModel) -> Iterator[tuple[int, Part, int]]:
    """Number, part and count of visible pixels of each part."""
    for number, part in enumerate(model.parts):
        yield number, part, model.visible_pixels[number]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "demo"
    write_dataset(folder, NUM_MODELS, SIZE, seed=0, workers=0)
    return folder


@pytest.fixture
def sampled_numbers(monkeypatch) -> list[int]:
    """The numbers of the models that `write_dataset` samples from now on."""
    numbers: list[int] = []

    def sample_and_record(seed: int, number: int, *args) -> SyntheticModel:
        numbers.append(number)
        return sample_model(seed, number, *args)

    monkeypatch.setattr(dataset, "sample_model", sample_and_record)
    return numbers


def test_a_model_folder_contains_one_whole_and_an_image_and_a_label_per_part(demo, models):
    expected = {MARKER_NAME}
    for model in models:
        prefix = f"{model.name}/{model.name}-"
        expected.add(f"{prefix}whole.png")
        for part in model.sample_parts:
            expected |= {f"{prefix}{part.name}.png", f"{prefix}{part.name}.json"}
    assert set(file_hashes(demo)) == expected


def test_images_are_square_rgb_on_a_white_background(demo):
    for path in demo.rglob("*.png"):
        image = Image.open(path)
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
        assert image.getpixel((0, 0)) == (255, 255, 255)


def test_labels_are_finite_and_in_range(demo):
    for path in demo.rglob("*.json"):
        label = json.loads(path.read_text(encoding="utf-8"))
        assert list(label) == ["translation", "rotation", "scale"]
        assert np.abs(label["translation"]).max() <= 0.5
        assert label["rotation"] == [1.0, 0.0, 0.0, 0.0]
        assert len(set(label["scale"])) == 1 and 0 < label["scale"][0] <= 1


def test_the_whole_is_centred_and_its_longest_side_is_1(models):
    for model in models:
        points = scene_geometry(model.parts)[0].reshape(-1, 3)
        low, high = points.min(0), points.max(0)
        assert (low + high) / 2 == pytest.approx(np.zeros(3), abs=1e-9)
        assert (high - low).max() == pytest.approx(1)


def test_the_visible_pixels_of_a_part_are_inside_its_labelled_cube(models):
    for model in models:
        indices = render_part_indices(model.parts, VISIBILITY_IMAGE_SIZE)
        for number, part in enumerate(model.parts):
            if part not in model.sample_parts:
                continue
            label = pose_label(part)
            corners = np.array(list(product((-0.5, 0.5), repeat=3)))
            uv, _ = DEMO_CAMERA.project(
                label["scale"][0] * corners + np.array(label["translation"])
            )
            rows, columns = np.nonzero(indices == number)
            pixels = np.stack([columns, rows], -1) + 0.5
            assert len(pixels) >= DEMO_OBJECTS.min_visible_pixels
            assert (pixels >= uv.min(0) * VISIBILITY_IMAGE_SIZE - 1).all(), (model.name, part.name)
            assert (pixels <= uv.max(0) * VISIBILITY_IMAGE_SIZE + 1).all(), (model.name, part.name)


def test_scale_and_translation_map_the_normalised_part_onto_the_whole(models):
    """whole_point = scale * part_point + translation, up to the rounding of the label."""
    for model in models:
        for part in model.sample_parts:
            low, high = part.mesh.bounds()
            normalised = (part.mesh.points - (low + high) / 2) / (high - low).max()
            label = pose_label(part)
            points = label["scale"][0] * normalised + np.array(label["translation"])
            assert points == pytest.approx(part.mesh.points + part.position, abs=2e-6)


def test_a_part_image_shows_the_normalised_part(demo, models):
    for model in models[:8]:
        for part in model.sample_parts:
            low, high = part.mesh.bounds()
            uv, _ = DEMO_CAMERA.project((part.mesh.points - (low + high) / 2) / (high - low).max())
            image = np.asarray(Image.open(demo / model.name / f"{model.name}-{part.name}.png"))
            rows, columns = np.nonzero((image < 255).any(-1))
            bounds = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            expected = np.concatenate([uv.min(0), uv.max(0)]) * SIZE
            assert bounds == pytest.approx(expected, abs=1.5), (model.name, part.name)


def test_a_part_has_the_same_colours_alone_and_in_the_whole(models):
    """At least half of its pixels in the whole; colours at edges are mixtures."""
    for model in models[::5]:
        triangles, colors, _ = scene_geometry(model.parts)
        whole = render_image(triangles, colors, VISIBILITY_IMAGE_SIZE)
        indices = render_part_indices(model.parts, VISIBILITY_IMAGE_SIZE)
        for number, part, visible_pixels in parts_with_visibility(model):
            if part in model.sample_parts and visible_pixels > 1000:
                alone = render_part(part.mesh, VISIBILITY_IMAGE_SIZE)
                part_colors = {tuple(color) for color in alone.reshape(-1, 3).tolist()}
                pixels = [tuple(color) for color in whole[indices == number].tolist()]
                assert np.mean([color in part_colors for color in pixels]) > 0.5, part.name


def test_equal_parts_have_byte_identical_images(demo, models):
    twins = 0
    for model in models:
        images: dict[int, bytes] = {}
        for part in model.sample_parts:
            data = (demo / model.name / f"{model.name}-{part.name}.png").read_bytes()
            assert images.setdefault(id(part.mesh), data) == data
        twins += len(model.sample_parts) - len(images)
    assert twins > 10


def test_hidden_and_tiny_parts_have_no_sample_but_are_in_the_whole(models):
    excluded = [
        (part, visible_pixels)
        for model in models
        for _, part, visible_pixels in parts_with_visibility(model)
        if part not in model.sample_parts
    ]
    assert excluded
    assert all(
        visible_pixels < DEMO_OBJECTS.min_visible_pixels or pose_label(part)["scale"][0] < MIN_SCALE
        for part, visible_pixels in excluded
    )


def test_some_samples_are_largely_occluded(models):
    """Less than a third of the pixels that would be visible without the other parts."""
    occluded = 0
    for model in models:
        for _, part, visible_pixels in parts_with_visibility(model):
            alone = (render_part_indices([part], VISIBILITY_IMAGE_SIZE) == 0).sum()
            occluded += part in model.sample_parts and visible_pixels < alone / 3
    assert occluded >= 5


def test_a_seed_gives_the_same_bytes_with_any_number_of_workers(demo, tmp_path):
    write_dataset(tmp_path / "again", NUM_MODELS, SIZE, seed=0, workers=2)
    assert file_hashes(tmp_path / "again") == file_hashes(demo)


def test_the_bytes_of_a_model_do_not_depend_on_other_models(demo, tmp_path):
    write_model(tmp_path, SIZE, seed=0, number=5)
    single = file_hashes(tmp_path)
    assert single and single.items() <= file_hashes(demo).items()


def test_another_seed_gives_other_models(models):
    other = sample_model(1, 0)
    assert pose_label(other.parts[0]) != pose_label(models[0].parts[0])


def test_an_earlier_data_set_is_replaced_and_another_folder_is_refused(tmp_path):
    user_folder = tmp_path / "mine"
    (user_folder / "chair").mkdir(parents=True)
    (user_folder / "chair" / "chair-whole.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"mine: contains files but no {MARKER_NAME}"):
        write_dataset(user_folder, 1, SIZE, seed=0, workers=0)
    assert (user_folder / "chair" / "chair-whole.png").read_bytes() == b"precious"

    folder = tmp_path / "demo"
    write_dataset(folder, 2, SIZE, seed=0, workers=0)
    write_dataset(folder, 1, SIZE, seed=0, workers=0)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [
        family_and_name(0, DEMO_OBJECTS)[1]
    ]


def test_no_file_is_changed_in_place(tmp_path):
    """A hard link to a file of the data set, as in the cache of DVC, keeps its content."""
    folder, cache = tmp_path / "demo", tmp_path / "cache"
    write_dataset(folder, 1, SIZE, 0, 0)
    shutil.copytree(folder, cache, copy_function=os.link)
    expected = file_hashes(cache)
    write_dataset(folder, 1, SIZE, 1, 0)
    assert file_hashes(cache) == expected
    assert {path.name for path in folder.iterdir() if path.is_file()} == {MARKER_NAME}


def test_a_lock_that_the_caller_holds_in_the_folder_is_no_foreign_file(tmp_path):
    for seed in (0, 1):
        with locked_folder(tmp_path / "demo"):
            write_dataset(tmp_path / "demo", 1, SIZE, seed, 0)
            assert (tmp_path / "demo/.lock").exists()


def test_the_stage_reports_counts_and_one_line_on_an_error(tmp_path, run_command, monkeypatch):
    monkeypatch.setattr(demo_command, "DEMO_IMAGE_PX", SIZE)
    (tmp_path / "params.yaml").write_text("demo: {num_models: 8}\nmachine: {num_processes: 1}\n")
    success = run_command(demo_command, "--out", "out")
    assert success.status == 0, success.err
    assert "8 models" in success.out and "8 families" in success.out

    failure = run_command(demo_command, "--out", "params.yaml")
    assert failure.status == 2
    assert failure.err.startswith("error: ") and len(failure.err.splitlines()) == 1


def test_an_interrupted_call_is_resumed_only_with_the_same_arguments(tmp_path, sampled_numbers):
    folder = tmp_path / "pretrain"
    write_dataset(folder, 4, SIZE, 0, 0, PRETRAINING_OBJECTS)
    expected = file_hashes(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    shutil.rmtree(folder / names[1])
    (folder / f".{names[1]}").mkdir()  # an incomplete model of a killed process
    sampled_numbers.clear()
    write_dataset(folder, 4, SIZE, 0, 0, PRETRAINING_OBJECTS, resume=True)
    assert file_hashes(folder) == expected and len(sampled_numbers) == 1
    write_dataset(folder, 4, SIZE, 1, 0, PRETRAINING_OBJECTS, resume=True)  # another seed
    assert len(sampled_numbers) == 5 and file_hashes(folder) != expected


def test_a_partially_removed_data_set_is_not_resumed(tmp_path, monkeypatch, sampled_numbers):
    """A call is killed while it removes an earlier data set; the earlier arguments come back."""
    folder = tmp_path / "pretrain"
    write_dataset(folder, 4, SIZE, 0, 0, PRETRAINING_OBJECTS)
    expected = file_hashes(folder)
    rmtree = shutil.rmtree
    removed = []

    def rmtree_once(*args, **kwargs) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(rmtree(*args, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree_once)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(folder, 4, SIZE, 1, 0, PRETRAINING_OBJECTS, resume=True)
    sampled_numbers.clear()
    write_dataset(folder, 4, SIZE, 0, 0, PRETRAINING_OBJECTS, resume=True)
    assert file_hashes(folder) == expected and len(sampled_numbers) == 4
