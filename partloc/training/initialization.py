"""Initialises a model before training: starting weights, label statistics, camera."""

from pathlib import Path

import torch

from partloc.config import Config
from partloc.data.background import load_image
from partloc.data.table import PairTable
from partloc.model.camera import PinholeCamera, describe_camera
from partloc.model.locator import PartLocator
from partloc.model.model_file import start_from
from partloc.model.proposals import ProposalLocator
from partloc.training.camera_fit import fit_camera

# A camera that fewer of the matched parts agree with is more likely a chance fit.
MIN_INLIER_FRACTION = 0.25
PROJECTION_PAIRS = 12  # training pairs whose tokens determine the encoder's projection


def initialize_model(model: PartLocator, table: PairTable, config: Config) -> str:
    """Load the starting weights, or else the label statistics, and set the camera.

    A model that starts from the weights of a model file keeps their label statistics, because
    these are the unit of its outputs, and their camera unless the data clearly has another one.

    Returns: a message about the camera for the user; empty without template matching.
    """
    inherits_encoder = False
    if config.model.start_from:
        inherits_encoder = start_from(model, Path(config.model.start_from))
    else:
        model.prior.fit(table)
    if not inherits_encoder:
        fit_projection(model, table, config.data.max_image_pixels)
    if not isinstance(model, ProposalLocator):
        return ""
    camera = fit_camera(table, config.data.max_image_pixels, config.seed, model.pinhole_camera)
    if camera is None or camera.inlier_fraction < MIN_INLIER_FRACTION:
        return _describe_failed_fit(model, camera)
    agreement = f"{camera.inlier_fraction:.0%} of the matched parts agree"
    if model.has_camera and torch.equal(camera.slope, model.position_decoder.camera.slope):
        return describe_camera(camera, f"that of the starting weights, {agreement}")
    model.set_camera(camera)
    return describe_camera(camera, agreement)


@torch.inference_mode()
def fit_projection(model: PartLocator, table: PairTable, max_pixels: int) -> None:
    """Fit the projection of the tokens to some of the training images."""
    rows = torch.linspace(0, len(table) - 1, min(PROJECTION_PAIRS, len(table))).long().tolist()
    files = dict.fromkeys(
        file for row in rows for file in (table.whole_image(row), table.part_image(row))
    )
    samples = []
    for path, sha256 in files:  # one at a time: an image of full size takes much memory
        image = model.preprocessing(load_image(path, max_pixels, sha256))
        images = image[None].to(model.device)
        samples.append(model.encoder(images, model.encoder.find_crops(images)))
    model.projection.fit(torch.cat(samples).flatten(0, 1))


def _describe_failed_fit(model: PartLocator, camera: PinholeCamera | None) -> str:
    if camera is None:
        reason = "too few matched parts, or all in a plane"
    else:
        reason = f"only {camera.inlier_fraction:.0%} of the matched parts agree"
    consequence = "template matching learns from the pose alone"
    if model.has_camera:
        consequence = "the camera of the starting weights is used"
    return f"no common camera could be fitted to the training parts ({reason}); {consequence}"
