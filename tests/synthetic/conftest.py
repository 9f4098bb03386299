"""Fixtures for the tests of synthetic objects: demo models of each family."""

import pytest

from partloc.synthetic.dataset import SyntheticModel, sample_model
from partloc.synthetic.families import DEMO_FAMILIES


@pytest.fixture(scope="session")
def models() -> list[SyntheticModel]:
    """One model of each family."""
    return [sample_model(0, number) for number in range(len(DEMO_FAMILIES))]


@pytest.fixture(scope="session")
def models_by_family(models) -> dict[str, list[SyntheticModel]]:
    """Several models of each family."""
    more = [sample_model(0, number) for number in range(len(models), 6 * len(models))]
    groups: dict[str, list[SyntheticModel]] = {family: [] for family in DEMO_FAMILIES}
    for model in models + more:
        groups[model.family].append(model)
    return groups
