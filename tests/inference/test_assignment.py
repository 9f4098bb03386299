"""Equal parts on distinct places."""

import resource

import torch
from torch.testing import assert_close

from partloc.inference.assignment import APART, WELL_APART, assign, offered, with_completing
from partloc.pose import PartPose


def hypotheses(*places: tuple[float, float], n: int, size: float = 0.2) -> PartPose:
    """The same hypotheses for n parts, at (x, 0, z)."""
    translation = torch.tensor([[x, 0.0, z] for x, z in places]).expand(n, -1, -1)
    return PartPose(translation, torch.full((n, len(places), 1), size))


def chosen_places(found: PartPose, chosen: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in found.translation.flatten(0, 1)[chosen].tolist()}


def test_four_legs_go_to_the_four_most_probable_corners():
    corners = [(-0.4, -0.4), (0.4, -0.4), (-0.4, 0.4), (0.4, 0.4)]
    found = hypotheses(*corners, (0.0, 0.0), n=4)
    confidence = torch.tensor([0.3, 0.2, 0.2, 0.2, 0.1]).log().expand(4, -1)
    chosen = assign(found, confidence).number
    assert len(set((chosen % 5).tolist())) == 4
    assert 4 not in chosen % 5


def test_what_is_nearly_the_same_place_is_one_place():
    near = 0.4 + 0.9 * APART * 0.2
    found = hypotheses((0.4, 0.0), (near, 0.0), (-0.4, 0.0), n=2)
    chosen = assign(found, torch.tensor([0.5, 0.4, 0.1]).log().expand(2, -1)).number
    assert {int(number) % 3 for number in chosen} == {0, 2}


def test_long_parts_may_lie_side_by_side():
    beside = 1.1 * WELL_APART  # less than APART of their own size
    found = hypotheses((0.0, 0.0), (beside, 0.0), (0.0, 0.4), n=2, size=0.9)
    chosen = assign(found, torch.tensor([0.5, 0.4, 0.1]).log().expand(2, -1)).number
    assert {int(number) % 3 for number in chosen} == {0, 1}


def test_equal_parts_are_of_one_size_if_nothing_else_is_far_more_probable():
    found = hypotheses((0.4, 0.0), (-0.4, 0.0), (0.0, 0.4), n=2)
    found.scale[:, 1] = 0.1
    chosen = assign(found, torch.tensor([0.6, 0.3, 0.1]).log().expand(2, -1)).number
    assert {int(number) % 3 for number in chosen} == {0, 2}
    chosen = assign(found, torch.tensor([0.6, 0.395, 0.005]).log().expand(2, -1)).number
    assert {int(number) % 3 for number in chosen} == {0, 1}


def test_a_place_does_not_gain_by_a_likely_one_beside_it():
    found = hypotheses((0.4, 0.0), (0.55, 0.0), (-0.4, 0.0), n=2)
    chosen = assign(found, torch.tensor([0.5, 0.22, 0.28]).log().expand(2, -1)).number
    assert {int(number) % 3 for number in chosen} == {0, 2}


def test_a_part_for_which_no_place_is_left_keeps_its_own_answer():
    found = hypotheses((0.4, 0.0), (-0.4, 0.0), n=3)
    chosen = assign(found, torch.tensor([0.6, 0.4]).log().expand(3, -1)).number
    places = [round(x, 1) for x in found.translation.flatten(0, 1)[chosen][:, 0].tolist()]
    assert sorted(places) == [-0.4, 0.4, 0.4]


def test_each_part_prefers_the_place_that_it_finds_more_probable_itself():
    found = hypotheses((0.4, 0.0), (-0.4, 0.0), n=2)
    chosen = assign(found, torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()).number
    x = found.translation.flatten(0, 1)[chosen][:, 0]
    assert x[0] < 0 < x[1]


def test_a_single_part_gets_its_best():
    found = hypotheses((0.4, 0.0), (-0.4, 0.0), n=1)
    assert assign(found, torch.tensor([[0.2, 0.8]]).log()).number.tolist() == [1]


def completing(n: int) -> list[list[float]]:
    """Places that no hypothesis is at, beside two at which one is."""
    found = hypotheses((0.3, -0.2), (0.3, 0.2), n=n)
    share = torch.tensor([0.6, 0.4]).log().expand(n, -1)
    places = with_completing(offered(found, share), found, share)
    assert places.number.tolist()[:2] == [0, 1] and (places.number[2:] == -1).all()
    assert_close(places.pose.scale[2:], torch.full((len(places.number) - 2, 1), 0.2))
    assert (places.density[:, 2:] < places.density[:, :2].min()).all()
    return [[round(x, 3) + 0.0 for x in row] for row in places.pose.translation[2:].tolist()]


def test_places_are_completed_by_their_mirror_images_in_the_middle_of_the_whole():
    assert completing(n=2) == [[-0.3, 0.0, -0.2], [-0.3, 0.0, 0.2]]


def test_more_than_two_parts_also_go_on_as_they_begin_within_the_whole():
    beyond = 0.2 + 0.4  # twice the step from one to the other, which is outside
    assert beyond > 0.5
    found = hypotheses((0.1, 0.0), (0.2, 0.1), (0.2, 0.4), n=3)
    share = torch.tensor([0.5, 0.3, 0.2]).log().expand(3, -1)
    places = with_completing(offered(found, share), found, share).pose.translation
    places = {tuple(round(x, 3) + 0.0 for x in row) for row in places.tolist()}
    assert {(0.1, 0.0, 0.3), (0.3, 0.0, 0.2)} <= places  # a corner, and the next in a row
    assert not [place for place in places if max(map(abs, place)) > 0.5]


def test_a_thousand_equal_screws_fit_in_memory():
    """Not what they need at once for all, four times n * K * n * K numbers: 4 GB of these."""
    count, places = 1000, 8
    chance = torch.Generator().manual_seed(0)
    found = PartPose(
        torch.rand(count, places, 3, generator=chance) - 0.5, torch.full((count, places, 1), 0.01)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen = assign(found, torch.zeros(count, places)).number
    assert len(set(chosen.tolist())) == count
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9
