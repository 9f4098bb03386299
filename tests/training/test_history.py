"""What a training tells of each epoch, and which one it takes."""

from partloc.training.history import best_epoch, learned, line_of, record_of


def test_the_best_epoch_is_that_of_the_best_answers_whatever_else_is_learned():
    def record(epoch, pose, loss):
        return record_of(epoch, {"loss": loss}, {"loss": loss, "pose_loss": pose})

    history = [record(0, 0.20, 0.9), record(1, 0.15, 1.0), record(2, 0.18, 0.5)]
    assert best_epoch(history) == 1
    assert best_epoch([record(0, 0.1, 0.9), *history[1:]]) == 0


def test_of_equal_epochs_the_first_and_of_epochs_without_validation_the_last_is_best():
    same = [record_of(epoch, {}, {"pose_loss": 0.2}) for epoch in range(3)]
    assert best_epoch(same) == 0
    assert best_epoch([record_of(epoch, {"loss": 0.2}, {}) for epoch in (1, 2)]) == 2


def test_before_the_first_epoch_nothing_was_learned():
    history = [record_of(epoch, {}, {"loss": 0.2}) for epoch in range(3)]
    assert learned(history) == history[1:] == learned(history[1:])


def test_a_line_tells_what_there_is():
    val = {"loss": 0.9, "translation_error": 0.2, "twin_aware_error": 0.1}
    val["relative_scale_error"] = 0.125
    before = line_of(record_of(0, {}, val), 12)
    assert before.startswith("epoch   0/12  val loss 0.900")
    assert "0.200 (twin-aware 0.100)" in before and "12.5%" in before
    assert line_of(record_of(3, {"loss": 0.5}, {}), 12) == "epoch   3/12  train loss 0.500"
