"""What TensorBoard shows of a run: scalars, validation cases, hyper-parameters."""

import errno
import io
import os

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from toys import make_trainer, tiny_config

from partloc.data.images import ImageError
from partloc.drawing import LABEL_COLOR, PREDICTION_COLOR
from partloc.training import tensorboard
from partloc.training.run_folder import RunFolder
from partloc.training.tensorboard import NUM_CASES, choose_rows

NUM_EPOCHS = 2
CONFIG = tiny_config(train={"num_epochs": NUM_EPOCHS})


def read_events(folder: RunFolder) -> EventAccumulator:
    sizes = {"images": 0, "scalars": 0, "tensors": 0}
    return EventAccumulator(str(folder.tensorboard), sizes).Reload()


def train(tables, folder: RunFolder, config=CONFIG):
    trainer = make_trainer(config, *tables)
    trainer.fit(folder)
    return trainer


@pytest.fixture(scope="module")
def finished(tables, tmp_path_factory):
    """A trainer and what it logged."""
    folder = RunFolder(tmp_path_factory.mktemp("runs"), "f" * 16)
    return train(tables, folder), read_events(folder)


def test_scalars_are_grouped_by_what_they_measure(finished):
    trainer, events = finished
    groups = {"loss": [], "loss_terms": [], "validation": [], "rate": [], "machine": [], "kept": []}
    for tag in events.Tags()["scalars"]:
        groups[tag.partition("/")[0]].append(tag)
    assert sorted(groups["loss"]) == ["loss/training", "loss/validation"]
    assert {"loss_terms/depth_training", "loss_terms/depth_validation"} < {*groups["loss_terms"]}
    assert {"validation/translation_error", "validation/pose_loss"} < {*groups["validation"]}
    losses = [event.value for event in events.Scalars("loss/validation")]
    assert losses == pytest.approx([record["val_loss"] for record in trainer.state.history])


def test_a_case_without_its_image_is_left_out_and_the_training_goes_on(
    tables, tmp_path, monkeypatch, capsys
):
    """A cached encoder reads no images, so they may be gone."""

    def load(path, _max_pixels, missing=tables[1].part_paths[0]):
        if str(path).endswith(missing):
            raise ImageError(f"{path}: No such file or directory")
        return Image.new("RGB", (20, 20), "white")

    monkeypatch.setattr(tensorboard, "load_image", load)
    folder = RunFolder(tmp_path, "f" * 16)
    assert train(tables, folder).state.epoch == NUM_EPOCHS
    assert len(read_events(folder).Tags()["images"]) == len(tables[1]) - 1
    assert capsys.readouterr().err.count("warning: not drawn for TensorBoard:") == 1


def test_the_same_validation_cases_are_drawn_each_epoch_with_both_poses(finished):
    trainer, events = finished
    tags, table = events.Tags()["images"], trainer.val_table
    rows = choose_rows(len(table), NUM_CASES)
    assert sorted(tags) == sorted(f"validation cases/{table.part_paths[row]}" for row in rows)
    assert 0 < len(tags) <= NUM_CASES
    shown = set()
    for tag in tags:
        images = events.Images(tag)
        assert [image.step for image in images] == list(range(1, NUM_EPOCHS + 1))
        pixels = np.asarray(Image.open(io.BytesIO(images[-1].encoded_image_string)))
        shown |= {f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in pixels.reshape(-1, 3)}
    assert {LABEL_COLOR, PREDICTION_COLOR} <= shown


def test_eight_cases_are_spread_over_a_long_table_and_a_short_one_has_fewer():
    rows = choose_rows(1000, NUM_CASES)
    assert len(rows) == 8 and (rows[0], rows[-1]) == (0, 999)
    assert choose_rows(3, NUM_CASES) == [0, 1, 2]
    assert choose_rows(0, NUM_CASES) == []


def test_the_hyper_parameters_have_the_metrics_of_the_kept_epoch(tables, tmp_path):
    trainer = make_trainer(CONFIG, *tables)
    validate, losses = trainer.validate, iter([0.1, 0.3])
    trainer.validate = lambda: validate() | {"pose_loss": next(losses)}
    folder = RunFolder(tmp_path, "f" * 16)
    trainer.fit(folder)
    events = read_events(folder)
    (kept,) = events.Scalars("kept/epoch")
    assert kept.value == 1
    (error,) = events.Scalars("kept/val_translation_error")
    assert error.value == pytest.approx(trainer.state.history[0]["val_translation_error"])
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["train.num_epochs"].number_value == NUM_EPOCHS
    assert values["data.max_train_models"].string_value == "null"
    assert not [name for name in values if name.startswith("machine") or "dir" in name]


@pytest.mark.parametrize("stopped_after", ["log", "state"])
def test_each_series_has_each_epoch_once_wherever_the_run_was_stopped(
    finished, tables, tmp_path, stopped_after
):
    """Also between the log of an epoch and its state."""
    folder = RunFolder(tmp_path, "f" * 16)
    for epoch in range(1, NUM_EPOCHS + 1):
        trainer = make_trainer(CONFIG, *tables)
        if state := folder.load_state():
            trainer.model.load_state_dict(state["model"])
            trainer.state.restore(state)
        save_state = folder.save_state

        def stop(step, state, last=epoch, save_state=save_state):
            if stopped_after == "state" or state["epoch"] < last:
                save_state(step, state)
            if state["epoch"] == last:
                raise KeyboardInterrupt

        folder.save_state = stop
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(folder)
        del folder.save_state
    trainer = make_trainer(CONFIG, *tables)
    if state := folder.load_state():
        trainer.model.load_state_dict(state["model"])
        trainer.state.restore(state)
    trainer.fit(folder)

    resumed, expected = read_events(folder), finished[1]
    assert resumed.Tags() == expected.Tags()
    for tag in expected.Tags()["scalars"]:
        assert [e.step for e in resumed.Scalars(tag)] == [e.step for e in expected.Scalars(tag)]
    for tag in expected.Tags()["images"]:
        assert [e.step for e in resumed.Images(tag)] == [1, 2]


def test_a_full_disk_names_the_folder(tables, tmp_path, monkeypatch):
    """TensorBoard's own error, raised in another thread, names no file."""

    def write_nothing(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "tensorboard.summary.writer.record_writer.RecordWriter.write", write_nothing
    )
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    folder = RunFolder(tmp_path, "f" * 16)
    with pytest.raises(OSError, match="cannot be written: No space left on device") as failure:
        train(tables, folder)
    assert str(folder.tensorboard) in str(failure.value)


def test_an_error_of_drawing_is_not_called_one_of_writing(tables, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("of drawing")

    monkeypatch.setattr(tensorboard, "draw_validation_case", fail)
    with pytest.raises(RuntimeError, match="^of drawing$"):
        train(tables, RunFolder(tmp_path, "f" * 16))
