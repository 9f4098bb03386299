"""Fixtures for the tests of synthetic objects: one demo model of each family."""

import pytest

from partloc.synthetic.dataset import SyntheticModel, sample_model
from partloc.synthetic.families import DEMO_FAMILIES


@pytest.fixture(scope="session")
def models() -> list[SyntheticModel]:
    return [sample_model(0, number) for number in range(len(DEMO_FAMILIES))]
