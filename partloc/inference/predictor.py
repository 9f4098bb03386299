"""Prediction from images without labels: the poses of the parts of a whole.

A model file contains all that is needed: architecture, weights and preprocessing.

Shapes: P readable parts of one model; U parts of a batch; K hypotheses per part; F fields of a
hypothesis, see `hypotheses.HYPOTHESIS_FIELDS`; S tokens per side.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from partloc.data.background import prepare_image
from partloc.data.images import DEFAULT_MAX_PIXELS, ImageError, load_rgb
from partloc.data.twins import make_thumbnail
from partloc.distributed import choose_device, inference_dtype
from partloc.inference.assignment import assign
from partloc.inference.estimate import PoseEstimate
from partloc.inference.hypotheses import HYPOTHESIS_FIELDS, Hypotheses
from partloc.inference.image_loader import LoadedImage, PartDeduplicator, read_ahead
from partloc.model.camera import PinholeCamera
from partloc.model.encoder import EncodedImages
from partloc.model.locator import PartLocator
from partloc.model.model_file import load_model
from partloc.model.proposals import ProposalLocator

IMAGES_PER_BATCH = 8
# Subtracted from the confidence logits where whole or part has no plain background: the network has
# been trained and calibrated on plain ones.
NO_BACKGROUND_PENALTY = 2.0
MIN_SCALE = 1e-6  # of a rounded pose, so that it stays above 0


# The path of an image, or an upright RGB image.
PathOrImage = Path | str | Image.Image


class ModelImages(NamedTuple):
    """The images of one model."""

    whole: PathOrImage
    parts: Iterable[PathOrImage]


class ImageSource(NamedTuple):
    """One image of a model, in the order in which they are used: the whole, then its parts."""

    image: PathOrImage
    is_whole: bool
    is_last: bool  # of its model


class AttentionMap(NamedTuple):
    """Where in the whole the part's tokens look when it is put at its most probable hypothesis.

    weight: (S, S) uint8, over the crop of the whole; 255 is the largest. crop: (3,), right and down
    of its centre in [-1, 1] across the image, and its half side.
    """

    weight: Tensor
    crop: Tensor


class PartResult(NamedTuple):
    """The prediction for one part.

    best: the pose. Of several equal parts each has another one.
    hypotheses: of the part alone, without the dimension P. confidence: (K,), calibrated.
    on_plain: whether whole and part have a plain background; without, the confidence is lower.
    attention: only if it was asked for, and the model matches templates.
    """

    best: PoseEstimate
    hypotheses: Hypotheses
    confidence: Tensor
    on_plain: bool = True
    attention: AttentionMap | None = None

    def sorted_hypotheses(self) -> list[PoseEstimate]:
        """All hypotheses, the most probable first."""
        order = self.hypotheses.log_weight.argsort(descending=True, stable=True)
        poses = torch.cat(self.hypotheses.poses, 1)  # (K, 4)
        return [round_estimate(poses[k], self.confidence[k]) for k in order]

    def to_estimate(self) -> PoseEstimate:
        """The best pose with all hypotheses, in plain numbers."""
        hypotheses = tuple(self.sorted_hypotheses())
        return replace(self.best, hypotheses=hypotheses, plain_background=self.on_plain)


# For each part its prediction, or why its image cannot be read; or why that of the whole cannot.
ModelResult = list[PartResult | ImageError] | ImageError


def round_estimate(pose: Tensor, confidence: Tensor) -> PoseEstimate:
    """pose: (4,), confidence: ()."""
    x, y, z, scale = (round(value, 6) + 0.0 for value in pose.tolist())  # no -0.0
    return PoseEstimate((x, y, z), max(scale, MIN_SCALE), round(confidence.item(), 6))


class Predictor:
    """A trained network with everything around it.

    Args:
        model: a network or the path of a model file.
        max_pixels: limit for an image, width times height.
    Raises: CheckpointError for a missing or unsuitable file, ValueError for a missing device.
    """

    def __init__(
        self,
        model: PartLocator | Path | str,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.device, self.max_pixels = choose_device(device), max_pixels
        self.source = "the network" if isinstance(model, PartLocator) else str(model)
        if not isinstance(model, PartLocator):
            model = load_model(Path(model))
        self.model = model.to(self.device).eval()

    def use_camera(self, azimuth_deg: float, elevation_deg: float, fov_deg: float) -> None:
        """Predict with this camera, see `PinholeCamera.from_view`, instead of the model's.

        Raises: ValueError for angles out of range, or if the model does not use a camera.
        """
        if not isinstance(self.model, ProposalLocator):
            raise ValueError(f"{self.source}: a model without template matching uses no camera")
        self.model.set_camera(PinholeCamera.from_view(azimuth_deg, elevation_deg, fov_deg))

    def predict(
        self, whole: PathOrImage, parts: Iterable[PathOrImage], distinct: bool = True
    ) -> list[PartResult | ImageError]:
        """Predict the poses of the parts of one whole; ImageError for a part that is unreadable.

        distinct: give parts that look identical distinct poses.
        Raises: ImageError if the whole cannot be read.
        """
        (result,) = self.predict_models([ModelImages(whole, parts)], distinct)
        if isinstance(result, ImageError):
            raise result
        return result

    def predict_models(
        self, models: Iterable[ModelImages], distinct: bool = True, with_attention: bool = False
    ) -> Iterator[ModelResult]:
        """Predict model by model, as `predict` does; ImageError for a whole that is unreadable.

        with_attention: also return attention maps, see `PartResult`.

        Threads read the next images during the prediction, at most `image_loader.IMAGES_AHEAD`.
        A batch holds images of one model only, so its result does not depend on other models.
        """
        with closing(read_ahead(self._read, image_sources(models))) as images:
            for source, image in images:
                if source.is_whole:
                    prediction = _ModelPrediction(self, image, distinct, with_attention)
                else:
                    prediction.add_part(image)
                if source.is_last:
                    yield prediction.finish()

    def _read(self, source: ImageSource) -> LoadedImage | ImageError:
        image = source.image
        try:
            if not isinstance(image, Image.Image):
                image = load_rgb(image, self.max_pixels)
        except ImageError as error:
            return error
        image, background = prepare_image(image)
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        pixels, thumbnail = self.model.preprocessing.resize(image), make_thumbnail(image)
        return LoadedImage(pixels, thumbnail, digest, background.is_plain)

    @torch.inference_mode()
    def _encode(self, pixels: list[Tensor]) -> EncodedImages:
        images = self.model.preprocessing.normalize(torch.stack(pixels).to(self.device))
        return self.model.encode(images, inference_dtype(self.device))

    @torch.inference_mode()
    def _predict_batch(
        self, whole: EncodedImages, parts: EncodedImages, with_attention: bool
    ) -> tuple[Tensor, list[AttentionMap | None]]:
        """Hypotheses for U parts of one whole as a tensor (U, K, F) on the CPU, and their attention
        maps."""
        whole_of_part = torch.zeros(len(parts.tokens), dtype=torch.long, device=self.device)
        prediction = self.model.predict(whole, parts, whole_of_part)
        fields = prediction.hypotheses, prediction.log_weight, prediction.confidence_logit
        maps: list[AttentionMap | None] = [None] * len(parts.tokens)
        positions = prediction.best_proposal
        if with_attention and positions is not None:
            attended = self.model.attended(whole, parts, whole_of_part, positions)
            peak = attended.amax((1, 2), keepdim=True)
            weights = (255 * attended / peak).round().to(torch.uint8).cpu()
            crop = torch.cat([whole.crop[0, :2], whole.crop[0, 2:].exp()]).cpu()
            maps = [AttentionMap(weight, crop) for weight in weights]
        return Hypotheses(*fields).to_tensor().cpu(), maps

    def _make_results(
        self, hypotheses: Hypotheses, twin_groups: list[list[int]], on_plain: list[bool]
    ) -> list[PartResult]:
        """Results of P parts, each of which is in one of the groups.

        Raises: FloatingPointError if a pose or a confidence is not finite.
        """
        logits = hypotheses.confidence_logit
        confidence = self.model.confidence(logits.to(self.device)).cpu()  # (P, K)
        if not (hypotheses.to_tensor().isfinite().all() and confidence.isfinite().all()):
            raise FloatingPointError(
                f"{self.source}: its predictions are not finite numbers; train it again"
            )
        poses = torch.cat(hypotheses.poses, 2)  # (P, K, 4)
        best: dict[int, PoseEstimate] = {}
        for group in twin_groups:
            twins = hypotheses.select(group)
            chosen = assign(twins.poses, twins.log_weight)  # (n,) of n * K
            group_poses, group_confidence = poses[group].flatten(0, 1), confidence[group].flatten()
            for part, index in zip(group, chosen, strict=True):
                best[part] = round_estimate(group_poses[index], group_confidence[index])
        return [
            PartResult(best[part], hypotheses.select(part), confidence[part], on_plain[part])
            for part in range(len(poses))
        ]


def image_sources(models: Iterable[ModelImages]) -> Iterator[ImageSource]:
    """All images in the order in which they are used."""
    for model in models:
        image, is_whole = model.whole, True
        for part in model.parts:
            yield ImageSource(image, is_whole, is_last=False)
            image, is_whole = part, False
        yield ImageSource(image, is_whole, is_last=True)


class _ModelPrediction:
    """Prediction for one model, in batches, while its images arrive.

    The whole is encoded once, together with the first parts; so is each distinct image of a part.
    """

    def __init__(
        self,
        predictor: Predictor,
        whole: LoadedImage | ImageError,
        distinct: bool,
        with_attention: bool,
    ) -> None:
        self.predictor, self.whole, self.distinct = predictor, whole, distinct
        self.with_attention = with_attention
        self.parts = PartDeduplicator()
        self.whole_encoding: EncodedImages | None = None
        self.batch: list[Tensor] = [] if isinstance(whole, ImageError) else [whole.pixels]
        self.outputs: list[Tensor] = []  # (U, K, F) of each batch
        self.maps: list[AttentionMap | None] = []  # of each distinct image

    def add_part(self, part: LoadedImage | ImageError) -> None:
        if isinstance(self.whole, ImageError):
            return
        if self.parts.add(part) and not isinstance(part, ImageError):
            self.batch.append(part.pixels)
        if len(self.batch) == IMAGES_PER_BATCH:
            self._predict_batch()

    def finish(self) -> ModelResult:
        """The results after the last part."""
        if isinstance(self.whole, ImageError):
            return self.whole
        num_wholes = 1 if self.whole_encoding is None else 0
        if len(self.batch) > num_wholes:
            self._predict_batch()
        if not self.outputs:
            return [error for error in self.parts.errors if error]
        outputs = torch.cat(self.outputs)[self.parts.image_index]  # (P, K, F)
        on_plain = torch.tensor(self.parts.on_plain) & self.whole.on_plain  # (P,)
        logit = HYPOTHESIS_FIELDS.index("confidence_logit")
        outputs[..., logit] -= NO_BACKGROUND_PENALTY * ~on_plain[:, None]
        single_parts = [[part] for part in range(len(outputs))]
        groups = self.parts.twin_groups() if self.distinct else single_parts
        values = Hypotheses.from_tensor(outputs)
        maps = [self.maps[number] for number in self.parts.image_index]
        results = iter(
            result._replace(attention=attention)
            for result, attention in zip(
                self.predictor._make_results(values, groups, on_plain.tolist()), maps, strict=True
            )
        )
        return [error or next(results) for error in self.parts.errors]

    def _predict_batch(self) -> None:
        encoded = self.predictor._encode(self.batch)
        self.batch = []
        if self.whole_encoding is None:
            index = torch.arange(len(encoded.tokens), device=encoded.tokens.device)
            self.whole_encoding, encoded = encoded.select(index[:1]), encoded.select(index[1:])
        output, maps = self.predictor._predict_batch(
            self.whole_encoding, encoded, self.with_attention
        )
        self.outputs.append(output)
        self.maps += maps
