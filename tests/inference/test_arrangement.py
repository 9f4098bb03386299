"""Equal parts' places, judged together: what the network has learned, and how it is taught."""

import pytest
import torch
from torch.testing import assert_close
from toys import tiny_config

from partloc.inference import arrangement_net as arrangement
from partloc.inference.arrangement_net import MOST_PARTS, MOST_PLACES, ArrangementNet, Offer, taught
from partloc.inference.assignment import Placed, assign
from partloc.model.camera import View
from partloc.pose import PartPose
from partloc.pretraining import arrangement as arrangement_training
from partloc.pretraining.arrangement import (
    RECIPE,
    ArrangementTrainer,
    Groups,
    changed,
    loss_of,
    placed_errors,
)
from partloc.synthetic.dataset import DEMO, HELD_OUT, PRETRAINING
from partloc.training.run_folder import RunFolder

# The demo's camera, more or less: z is up, and it looks from above along x and y alike.
AXES = View(
    torch.tensor([[-0.78, 0.77, 0.0], [0.39, 0.41, -0.95]]), torch.zeros(2), torch.tensor(0.37), 1.0
).axes
CORNERS = [(x, y, -0.3) for x in (-0.3, 0.3) for y in (-0.25, 0.25)]


def offer_of(places: list[tuple[float, float, float]], support: list[float], count: int) -> Offer:
    """Places in the whole's frame, all of one size, one group."""
    position = torch.tensor(places)[None] @ AXES.T
    support = torch.tensor(support)[None]
    alike = torch.zeros_like(support)
    return Offer(position, alike - 1.5, support, alike, *2 * (alike == 0,), torch.tensor([count]))


def random_offer(groups: int, places: int, count: int) -> Offer:
    chance = torch.Generator().manual_seed(0)
    position = torch.rand(groups, places, 3, generator=chance) - 0.5
    told = torch.randn(3, groups, places, generator=chance)
    there = torch.ones(groups, places, dtype=torch.bool)
    return Offer(position, *told, there, there, torch.full((groups,), count))


@torch.no_grad()
def judged(offer: Offer) -> torch.Tensor:
    return taught()(offer)


# -- what it has learned -----------------------------------------------------------------------


def test_a_corner_that_completes_three_others_is_preferred_to_a_place_that_fits_a_little_better():
    elsewhere = [(0.05, 0.1, -0.1), (-0.1, 0.02, 0.3)]
    support = [0.0, 0.0, 0.0, -3.0, -2.0, -2.5]
    log_odds = judged(offer_of(CORNERS + elsewhere, support, 4))[0]
    assert set(log_odds.topk(4).indices.tolist()) == {0, 1, 2, 3}


def test_the_order_of_the_places_does_not_matter_nor_does_padding():
    offer = random_offer(2, 10, 4)
    expected = judged(offer)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    moved = Offer(*(field[:, order] for field in offer[:-1]), offer.count)
    assert_close(judged(moved), expected[:, order])
    padded = [torch.cat([field, torch.zeros_like(field)], 1) for field in offer[:-1]]
    assert_close(judged(Offer(*padded, offer.count))[:, :10], expected)


def test_untaught_it_goes_by_the_support_alone():
    offer = random_offer(3, 12, 5)
    found = ArrangementNet().eval()(offer)
    assert torch.equal(found.argsort(1), offer.support.argsort(1))


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "arrangement.pth"
    path.write_bytes(b"no weights")
    path.with_suffix(".sha256").write_text("0" * 64)
    monkeypatch.setattr(arrangement, "ARRANGEMENT_WEIGHTS", path)
    with pytest.raises(ValueError, match=r"arrangement\.pth: missing, or not the file that"):
        taught.__wrapped__()


# -- what is done with it ----------------------------------------------------------------------


def placed(places: list, share: list[float], axes: torch.Tensor | None) -> Placed:
    """Four equal parts."""
    translation = torch.tensor(places).expand(4, -1, -1)
    hypotheses = PartPose(translation, torch.full((4, len(places), 1), 0.2))
    share = torch.tensor(share).log().expand(4, -1)
    return assign(hypotheses, share, torch.zeros_like(share), axes)


def test_where_the_camera_is_known_equal_parts_go_to_places_that_belong_together():
    places = [*CORNERS, (0.05, 0.1, -0.1), (-0.1, 0.02, 0.3)]
    share = [0.3, 0.28, 0.26, 0.02, 0.08, 0.06]
    chosen = [placed(places, share, axes).number % 6 for axes in (None, AXES)]
    assert [set(numbers.tolist()) for numbers in chosen] == [{0, 1, 2, 4}, {0, 1, 2, 3}]


def test_a_corner_that_nothing_was_proposed_for_is_found_by_the_three_others():
    places = [*CORNERS[1:], (0.05, 0.1, 0.2)]  # all but the one furthest from the camera
    found = placed(places, [0.35, 0.33, 0.3, 0.02], AXES)
    row = int((found.number == -1).nonzero())
    assert_close(found.pose.translation[row], torch.tensor(CORNERS[0]))
    assert_close(found.pose.scale[row], torch.tensor([0.2]))
    assert found.log_odds.argmin() == row  # and known to be less sure than what was proposed


def test_more_parts_than_it_has_learned_of_go_by_each_place_alone():
    count = MOST_PARTS + 1
    places = torch.rand(1, MOST_PLACES, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    hypotheses = PartPose(places.expand(count, -1, -1), torch.full((count, MOST_PLACES, 1), 0.05))
    share = torch.linspace(2, 0, MOST_PLACES).log_softmax(0).expand(count, -1)
    with_axes, without = (assign(hypotheses, share, share, axes) for axes in (AXES, None))
    assert torch.equal(with_axes.number, without.number)


# -- how it is taught --------------------------------------------------------------------------


def test_it_learns_from_objects_that_neither_the_demo_nor_the_poses_come_from():
    assert len({RECIPE.stream, DEMO.stream, PRETRAINING.stream}) == 3
    assert not {name for name in RECIPE.families if name in HELD_OUT}
    known = [name for name in RECIPE.families if name in DEMO.families]
    assert len(known) == len(RECIPE.families) / 2 == len(DEMO.families) - len(HELD_OUT)


def groups_in_rows(count: int) -> Groups:
    """Three parts, the true places in a row and of less support than those beside it."""
    chance = torch.Generator().manual_seed(0)
    begin, step = torch.rand(2, count, 1, 3, generator=chance)
    row = 0.3 * (begin - 0.5) + 0.3 * (step - 0.5) * torch.arange(3)[:, None]
    beside = torch.rand(count, 3, 3, generator=chance) - 0.5
    position = torch.zeros(count, MOST_PLACES, 3)
    position[:, :6] = torch.cat([row, beside], 1)
    support = torch.zeros(count, MOST_PLACES)
    support[:, 3:6] = 0.5
    there = torch.arange(MOST_PLACES).expand(count, -1) < 6
    alike = torch.zeros(count, MOST_PLACES)
    offer = Offer(position, alike, support, alike, there, there, torch.full((count,), 3))
    truth = torch.cat([row, torch.zeros(count, MOST_PARTS - 3, 3)], 1)
    return Groups(offer, truth)


def test_the_loss_is_low_for_the_places_that_hold_a_part_each_once():
    groups = groups_in_rows(8)
    groups.offer.position[:, 3] = groups.offer.position[:, 2]  # the same place again
    right = torch.full((8, MOST_PLACES), -6.0)
    right[:, :3] = 6.0
    twice = right.clone()
    twice[:, 3] = 6.0
    wrong = -right
    losses = [loss_of(each, groups) for each in (right, twice, wrong)]
    assert (losses[0] < 0.02).all() and (losses[1] > 1).all() and (losses[2] > losses[1]).all()


def test_errors_of_places_are_matched_with_the_parts():
    groups = groups_in_rows(4)
    first = torch.arange(MOST_PLACES, 0, -1.0).expand(4, -1)
    assert torch.equal(placed_errors(first, groups), torch.zeros(4))
    assert (placed_errors(groups.offer.support, groups) > 0.05).all()


def test_changes_keep_places_and_truth_together_and_lose_no_best_place():
    groups = groups_in_rows(200)
    torch.manual_seed(0)
    other = changed(groups, AXES)
    assert_close(other.offer.position[:, :3], other.truth[:, :3])
    assert other.offer.there[:, 0].all()
    lost = groups.offer.there & ~other.offer.there
    assert 0.05 < lost.sum() / groups.offer.there.sum() < 0.15
    lengths = other.truth[:, 2].norm(dim=1) / groups.truth[:, 2].norm(dim=1)
    assert 0.8 <= lengths.min() < 0.9 and 1.1 < lengths.max() <= 1.2


def test_it_learns_what_makes_a_row():
    config = tiny_config(pretrain={"arrangement_models": 20, "arrangement_steps": 60})
    trainer = ArrangementTrainer(config, groups_in_rows(400), AXES)
    before = trainer.judge()
    assert before["error"] == pytest.approx(before["error_by_support"])
    for trainer.step in range(60):
        trainer.move()
    assert trainer.judge()["error"] < 0.7 * before["error"]


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(arrangement_training, "EPOCH", 3)
    config = tiny_config(pretrain={"arrangement_models": 20, "arrangement_steps": 6})

    def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
        trainer = ArrangementTrainer(config, groups_in_rows(100), AXES)
        state = folder.load_state()
        if state is not None:
            trainer.restore(state)
        trainer.train(folder)
        return trainer.net.state_dict()

    folders = [RunFolder(tmp_path, name) for name in ("at-once", "in-two")]
    for folder in folders:
        folder.path.mkdir()
    at_once = weights(folders[0])
    original = ArrangementTrainer.move

    def stopped(trainer: ArrangementTrainer) -> torch.Tensor:
        if trainer.step == 4:
            raise KeyboardInterrupt
        return original(trainer)

    monkeypatch.setattr(ArrangementTrainer, "move", stopped)
    with pytest.raises(KeyboardInterrupt):
        weights(folders[1])
    monkeypatch.setattr(ArrangementTrainer, "move", original)
    assert folders[1].load_state()["step"] == 3
    assert_close(weights(folders[1]), at_once, rtol=0, atol=0)
