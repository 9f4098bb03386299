"""Records of epochs, the choice of the best one, and the progress line."""

import pytest

from partloc.training.history import (
    best_metric,
    describe_best,
    format_record,
    format_training,
    loss_records,
    make_record,
)


def test_the_best_epoch_has_the_lowest_validation_pose_loss_not_the_lowest_loss():
    def record(epoch, pose, loss):
        return make_record(epoch, {"loss": loss}, {"loss": loss, "pose_loss": pose})

    history = [record(0, 0.20, 0.9), record(1, 0.15, 1.0), record(2, 0.18, 0.5)]
    assert best_metric(history) == {"name": "val_pose_loss", "value": 0.15, "epoch": 1}
    assert best_metric([record(0, 0.1, 0.9), *history[1:]])["epoch"] == 0


def test_the_first_of_equal_epochs_is_best_and_the_last_without_validation():
    equal = [make_record(epoch, {}, {"pose_loss": 0.2}) for epoch in range(3)]
    assert best_metric(equal)["epoch"] == 0
    unvalidated = [make_record(epoch, {"loss": 0.2}, {}) for epoch in (1, 2)]
    assert best_metric(unvalidated) == {"name": "epoch", "value": 2, "epoch": 2}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            {0: 0.078, 1: 0.06, 2: 0.052},
            "kept epoch 2: validation pose loss 0.052, at the start 0.078",
        ),
        (
            {1: 0.06, 2: 0.052, 3: 0.07},
            "kept epoch 2: validation pose loss 0.052, the lowest of all epochs",
        ),
        (
            {0: 0.078, 1: 0.09, 2: 0.081},
            "kept the starting weights: validation pose loss 0.078, and no epoch was better (the "
            "best one, epoch 2, has 0.081). Try a lower train.learning_rate, more epochs "
            "(train.num_epochs), or more training models",
        ),
    ],
)
def test_the_last_line_says_which_epoch_was_kept_and_why(losses, message):
    history = [make_record(epoch, {}, {"pose_loss": loss}) for epoch, loss in losses.items()]
    assert describe_best(history) == message


def test_the_last_line_says_that_there_was_no_validation():
    history = [make_record(epoch, {"loss": 0.2}, {}) for epoch in (1, 2)]
    assert describe_best(history) == "kept epoch 2, the last one: there are no validation models"


def test_the_table_of_a_training_shows_the_start_the_kept_and_the_last_epoch():
    losses = {0: 0.078, 1: 0.06, 2: 0.052, 3: 0.07}
    history = [make_record(epoch, {}, {"pose_loss": loss}) for epoch, loss in losses.items()]
    head, row, kept = format_training(history).splitlines()
    assert head.split() == ["start", "epoch", "2", "epoch", "3"]
    assert row.split() == ["validation", "pose", "loss", "0.078", "0.052", "0.070"]
    assert kept == describe_best(history)
    (head, *_) = format_training(history[1:3]).splitlines()
    assert head.split() == ["epoch", "2"]


def test_the_loss_chart_starts_at_epoch_0_and_its_records_have_equal_keys():
    """DVC draws no record whose keys differ from those of the first one."""
    start = make_record(0, {}, {"loss": 0.9, "pose_loss": 0.2})
    history = [start, make_record(1, {"loss": 0.8}, {"loss": 0.7, "pose_loss": 0.1})]
    assert loss_records(history) == [
        {"epoch": 1, "samples": "training", "loss": 0.8},
        {"epoch": 0, "samples": "validation", "loss": 0.9},
        {"epoch": 1, "samples": "validation", "loss": 0.7},
    ]


def test_the_progress_line_has_the_metrics_that_exist():
    val = {"loss": 0.9, "translation_error": 0.1, "labelled_error": 0.2}
    val["relative_scale_error"] = 0.125
    initial = format_record(make_record(0, {}, val), 12)
    assert initial.startswith("epoch   0/12  val loss 0.900")
    assert "0.100 (labelled 0.200)" in initial and "12.5%" in initial
    trained = format_record(make_record(3, {"loss": 0.5}, {}), 12)
    assert trained == "epoch   3/12  train loss 0.500"
