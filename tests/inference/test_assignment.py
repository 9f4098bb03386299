"""Equal parts get distinct positions."""

import resource

import torch

from partloc.inference.assignment import MIN_DISTANCE, MIN_DISTANCE_FRACTION, assign
from partloc.pose import PartPose


def make_hypotheses(*positions: tuple[float, float], n: int, scale: float = 0.2) -> PartPose:
    """The same hypotheses for n parts, at (x, 0, z)."""
    translation = torch.tensor([[x, 0.0, z] for x, z in positions]).expand(n, -1, -1)
    return PartPose(translation, torch.full((n, len(positions), 1), scale))


def chosen_positions(hypotheses: PartPose, weights: list[float]) -> list[int]:
    """The number of the hypothesis that each part gets, all parts having the same."""
    log_weight = torch.tensor(weights).log().expand(len(hypotheses.scale), -1)
    return (assign(hypotheses, log_weight) % len(weights)).tolist()


def test_four_legs_get_the_four_most_probable_corners():
    corners = [(-0.4, -0.4), (0.4, -0.4), (-0.4, 0.4), (0.4, 0.4)]
    hypotheses = make_hypotheses(*corners, (0.0, 0.0), n=4)
    chosen = chosen_positions(hypotheses, [0.3, 0.2, 0.2, 0.2, 0.1])
    assert sorted(chosen) == [0, 1, 2, 3]


def test_two_close_positions_count_as_one():
    close = 0.4 + 0.9 * MIN_DISTANCE_FRACTION * 0.2
    hypotheses = make_hypotheses((0.4, 0.0), (close, 0.0), (-0.4, 0.0), n=2)
    assert set(chosen_positions(hypotheses, [0.5, 0.4, 0.1])) == {0, 2}


def test_long_parts_may_lie_side_by_side():
    distance = 1.1 * MIN_DISTANCE  # less than MIN_DISTANCE_FRACTION of their size
    hypotheses = make_hypotheses((0.0, 0.0), (distance, 0.0), (0.0, 0.4), n=2, scale=0.9)
    assert set(chosen_positions(hypotheses, [0.5, 0.4, 0.1])) == {0, 1}


def test_equal_parts_get_equal_sizes_unless_another_position_is_far_more_probable():
    hypotheses = make_hypotheses((0.4, 0.0), (-0.4, 0.0), (0.0, 0.4), n=2)
    hypotheses.scale[:, 1] = 0.1
    assert set(chosen_positions(hypotheses, [0.6, 0.3, 0.1])) == {0, 2}
    assert set(chosen_positions(hypotheses, [0.6, 0.395, 0.005])) == {0, 1}


def test_a_position_gains_nothing_from_a_probable_one_beside_it():
    hypotheses = make_hypotheses((0.4, 0.0), (0.55, 0.0), (-0.4, 0.0), n=2)
    assert set(chosen_positions(hypotheses, [0.5, 0.22, 0.28])) == {0, 2}


def test_a_part_without_a_candidate_keeps_its_most_probable_hypothesis():
    hypotheses = make_hypotheses((0.4, 0.0), (-0.4, 0.0), n=3)
    assert sorted(chosen_positions(hypotheses, [0.6, 0.4])) == [0, 0, 1]


def test_each_part_gets_the_position_that_is_more_probable_for_it():
    hypotheses = make_hypotheses((0.4, 0.0), (-0.4, 0.0), n=2)
    chosen = assign(hypotheses, torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log())
    x = hypotheses.translation.flatten(0, 1)[chosen][:, 0]
    assert x[0] < 0 < x[1]


def test_a_single_part_gets_its_most_probable_hypothesis():
    hypotheses = make_hypotheses((0.4, 0.0), (-0.4, 0.0), n=1)
    assert assign(hypotheses, torch.tensor([[0.2, 0.8]]).log()).tolist() == [1]


def test_a_thousand_equal_parts_fit_in_memory():
    """All densities at once would need 4 * (n * K)^2 numbers, 4 GB or more."""
    num_parts, num_hypotheses = 1000, 8
    generator = torch.Generator().manual_seed(0)
    translation = torch.rand(num_parts, num_hypotheses, 3, generator=generator) - 0.5
    hypotheses = PartPose(translation, torch.full((num_parts, num_hypotheses, 1), 0.01))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen = assign(hypotheses, torch.zeros(num_parts, num_hypotheses))
    assert len(set(chosen.tolist())) == num_parts
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9
