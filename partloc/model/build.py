"""Builds the network of a configuration."""

from typing import TYPE_CHECKING

from partloc.data.transforms import Preprocessing
from partloc.model.locator import PartLocator
from partloc.model.proposals import ProposalLocator
from partloc.model.regression import DirectRegression

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig


def build_locator(
    config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
) -> PartLocator:
    """Build an untrained network; `match_size: 0` chooses direct regression.

    blank: without the weights that come with backbone and depth network, for a model whose own
        weights are loaded later.
    """
    method = ProposalLocator if config.match_size else DirectRegression
    return method(config, preprocessing, blank)
