"""The main method: template matching proposes positions, and each is corrected to a pose.

Shapes: W wholes, B parts, P pairs, K proposals per part, Q = B * K, M = T * T tokens per image, F
feature channels, C hidden width.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.data.transforms import Preprocessing
from partloc.model.attention import pooling_matrix
from partloc.model.camera import CAMERA_TENSORS, PinholeCamera
from partloc.model.crop import foreground, resample_crops, to_crop_frame
from partloc.model.depth_net import MAP_SIDE, DepthFit, DepthReading, fit_depth, load_depth_net
from partloc.model.encoder import EncodedImages
from partloc.model.locator import CROP_FEATURES, PartLocator
from partloc.model.pose_head import PositionDecoder
from partloc.model.prediction import Prediction
from partloc.model.proposal_attention import CONTEXT_WIDTH, ProposalAttention
from partloc.model.refinement import (
    CLOSE_UP_ZOOM,
    FEATURE_CHANNELS,
    AlignedPair,
    CloseUpNet,
    OverlayNet,
)
from partloc.model.template_matching import (
    CELL_PX,
    STEP_SCALE,
    MatchResult,
    TemplateMatching,
)
from partloc.pose import PartPose

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig, TrainConfig

CORRECTION_SCALE = 0.3  # of a position and depth, for a head output of 1
TRAINING_HYPOTHESES = 4  # maximum per pair in training, to save time
# Outputs of the head per proposal: an affine map of position and depth, a score, and a shift.
AFFINE_OUTPUTS, SCORE_OUTPUTS, SHIFT_OUTPUTS = 4 * (4 + 1), 1, 4
POSITION_FEATURES = 4  # right, down, log size, depth
# Of tokens that the networks behind them do not know: hardly visible in the first predictions. Not
# zero, because these networks may have zero weights for them, and both would stay zero.
FAINT = 0.02
FIT_FEATURES = 3  # residual and visible fraction of the depth fit, log weight of the proposal


class EncodedPairs(NamedTuple):
    """B parts, and the whole of each."""

    whole: EncodedImages
    part: EncodedImages

    def select(self, index: Tensor) -> "EncodedPairs":
        return EncodedPairs(self.whole.select(index), self.part.select(index))


class ProposalLocator(PartLocator):
    """Proposes positions by template matching, compares whole and part there, and predicts poses.

    Positions are right, down and log size of the part's crop in the crop of the whole.
    """

    to_thumbnail: Tensor
    to_mask: Tensor
    to_depth_input: Tensor

    def __init__(
        self, config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
    ) -> None:
        super().__init__(config, preprocessing, blank)
        hidden, side = config.mlp_hidden_dim, self.encoder.tokens_per_side
        self.token_gate = nn.Parameter(torch.ones(config.cross_attention_dim) / STEP_SCALE)
        self.token_dropout = 0.0  # fraction of the wholes whose tokens are zero in training
        self.cross_attention = ProposalAttention(
            config.cross_attention_dim, config.cross_attention_layers, self.encoder.token_centers
        )
        self.template_matching = TemplateMatching(config.match_size, side)
        self.depth_net = load_depth_net(blank) if config.depth_maps else None
        self.overlay, self.close_up = OverlayNet(hidden, side), CloseUpNet(hidden)
        self.position_decoder = PositionDecoder()
        features = CONTEXT_WIDTH + 2 * CROP_FEATURES + 2 * hidden + POSITION_FEATURES + FIT_FEATURES
        self.add_heads(features, AFFINE_OUTPUTS + SCORE_OUTPUTS + SHIFT_OUTPUTS)
        self.crop_side = CLOSE_UP_ZOOM * CELL_PX * config.match_size  # pixels
        sides = {"thumbnail": MAP_SIDE, "depth_input": 2 * MAP_SIDE, "mask": side}
        for name, side in sides.items():
            matrix = pooling_matrix(self.crop_side, side)
            self.register_buffer(f"to_{name}", matrix, persistent=False)

    # -- camera and trained networks -------------------------------------------------------------

    def set_trainable(self, train: "TrainConfig", has_camera: bool) -> None:
        super().set_trainable(train, has_camera)
        if self.depth_net is not None:
            # Without a camera a label does not determine the depth of a part.
            trained = not train.freeze_backbone and has_camera and train.w_depth > 0
            self.depth_net.requires_grad_(trained)

    @torch.no_grad()
    def fade_tokens(self) -> None:
        self.token_gate.fill_(FAINT / STEP_SCALE)

    @property
    def num_hypotheses(self) -> int:
        """K; at most TRAINING_HYPOTHESES in training."""
        count = self.config.hypotheses
        return min(count, TRAINING_HYPOTHESES) if self.training else count

    @property
    def attention_side(self) -> int | None:
        return self.encoder.tokens_per_side

    @property
    def pinhole_camera(self) -> PinholeCamera | None:
        camera = self.position_decoder.camera
        if not camera.is_known:
            return None
        tensors = {name: getattr(camera, name).cpu().clone() for name in CAMERA_TENSORS}
        return PinholeCamera(inlier_fraction=math.nan, **tensors)

    def set_camera(self, camera: PinholeCamera) -> None:
        """Predict through a fitted camera: an image position and its depth determine a point."""
        self.position_decoder.set_camera(camera, self.prior)

    def project(self, pose: PartPose) -> Tensor:
        return self.position_decoder.camera.pinhole.project(pose)

    # -- encoding --------------------------------------------------------------------------------

    @property
    def crop_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (3, self.crop_side, self.crop_side), (3 + 2, MAP_SIDE, MAP_SIDE)

    def crop_images(self, images: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The crops themselves, and small with their depth maps."""
        image = resample_crops(images, crops, self.crop_side)
        return image, self.make_thumbnails(image, crops)

    def make_thumbnails(self, image: Tensor, crops: Tensor) -> Tensor:
        """The field `thumbnail` of `EncodedImages`, from their field `image` and the crops."""
        thumbnail = self.to_thumbnail @ image @ self.to_thumbnail.T
        return torch.cat([thumbnail, self._depth_maps(image, crops)], 1)

    def _depth_maps(self, image: Tensor, crops: Tensor) -> Tensor:
        """(B, 2, MAP_SIDE, MAP_SIDE); zeros without a depth network."""
        if self.depth_net is None:
            return image.new_zeros(len(image), 2, MAP_SIDE, MAP_SIDE)
        camera = self.position_decoder.camera.pinhole.code.expand(len(image), -1)
        return self.depth_net(self.to_depth_input @ image @ self.to_depth_input.T, crops, camera)

    # -- prediction ------------------------------------------------------------------------------

    def predict(
        self,
        wholes: EncodedImages,
        parts: EncodedImages,
        whole_of_part: Tensor,
        gt_pose: PartPose | None = None,
        part_of_pair: Tensor | None = None,
    ) -> Prediction:
        """Match, propose, refine, choose; see `PartLocator.forward`."""
        if part_of_pair is None:
            part_of_pair = torch.arange(len(whole_of_part), device=whole_of_part.device)
        wholes, parts = self._project_tokens(wholes, parts, whole_of_part)
        pairs = EncodedPairs(wholes.select(whole_of_part), parts)
        match = self.match(wholes, parts, whole_of_part)
        aligned = self.align(pairs, match.proposals)
        poses, score, hidden = self.refine(pairs, aligned, match.proposals, match.log_weight)
        log_weight = (score + match.log_weight).log_softmax(1)
        prediction = Prediction(
            poses,
            log_weight,
            self.confidence_head(hidden, log_weight),
            self.template_matching.positions,
            match.log_probability,
            match.proposals,
            torch.cat([pairs.whole.crop, pairs.part.crop], -1),
        ).select(part_of_pair)
        if gt_pose is None:
            return prediction
        gt_prediction, depth_error = self.predict_at_gt(pairs.select(part_of_pair), gt_pose)
        return prediction._replace(gt_prediction=gt_prediction, depth_error=depth_error)

    def _project_tokens(
        self, wholes: EncodedImages, parts: EncodedImages, whole_of_part: Tensor
    ) -> tuple[EncodedImages, EncodedImages]:
        """Project the tokens of W wholes and B parts, and scale each channel by its gate.

        In pretraining the tokens of some wholes and of all their parts are zero, so that the model
        also works with an encoder that it does not know.
        Source: dropout of a whole modality, ModDrop (arXiv:1501.00102).
        """
        gate = STEP_SCALE * self.token_gate
        whole_gate = gate.expand(len(wholes.tokens), -1)
        if self.training and self.token_dropout:
            kept = torch.rand(len(wholes.tokens), 1, device=gate.device) >= self.token_dropout
            whole_gate = whole_gate * kept
        return (
            wholes._replace(tokens=whole_gate[:, None] * self.projection(wholes.tokens)),
            parts._replace(tokens=whole_gate[whole_of_part, None] * self.projection(parts.tokens)),
        )

    def match(
        self, wholes: EncodedImages, parts: EncodedImages, whole_of_part: Tensor
    ) -> MatchResult:
        """Match B parts with their wholes, and propose the K best positions of each."""
        images = (F.avg_pool2d(crops.image, CLOSE_UP_ZOOM) for crops in (wholes, parts))
        features = feature_maps(wholes), feature_maps(parts)
        return self.template_matching(*images, *features, whole_of_part, self.num_hypotheses)

    def align(self, pairs: EncodedPairs, positions: Tensor) -> AlignedPair:
        """Close-ups of whole and part at positions (B, K, 3)."""
        whole, part = pairs
        whole_depth, part_depth = whole.thumbnail[:, 3:], part.thumbnail[:, 3:]
        return self.close_up.align(whole.image, whole_depth, part.image, part_depth, positions)

    def refine(
        self, pairs: EncodedPairs, aligned: AlignedPair, positions: Tensor, log_weight: Tensor
    ) -> tuple[PartPose, Tensor, Tensor]:
        """Predict the pose at each position (B, K, 3) from the close-ups there.

        log_weight: (B, K), of the positions.
        Returns: poses (B, K, .), scores (B, K), hidden features of the pose head (B, K, C).
        """
        aligned = aligned.detach()  # the depth network is trained by `depth_error` alone
        coarse = aligned.half_resolution  # enough for depth maps
        size = positions[..., 2:].exp()  # (B, K, 1)
        fit = fit_depth(coarse.read_depth(size.flatten(0, 1)), coarse.mask)
        features = self._compare(pairs, aligned, positions, fit, log_weight)
        outputs, hidden = self.pose_head(features)
        affine, score, shift = outputs.split([AFFINE_OUTPUTS, SCORE_OUTPUTS, SHIFT_OUTPUTS], -1)
        depth = fit.depth.unflatten(0, positions.shape[:2])  # (B, K, 1)
        corrected = self._correct(pairs, positions, depth, affine, shift)
        poses = self.prior(self.position_decoder(corrected, self.prior))
        return poses, score.squeeze(-1), hidden

    def _compare(
        self,
        pairs: EncodedPairs,
        aligned: AlignedPair,
        positions: Tensor,
        fit: DepthFit,
        log_weight: Tensor,
    ) -> Tensor:
        """Features of each position (B, K, 3), the pose head's input: (B, K, .)."""
        whole, part = pairs
        thumbnails = whole.thumbnail.detach(), part.thumbnail.detach()
        features = feature_maps(whole), feature_maps(part)
        overlay = self.overlay(*thumbnails, features, positions, fit.depth)  # (B, K, C)
        close_up = self.close_up(aligned, features, positions, fit.depth)  # (B, K, C)
        depth, residual, visible = (field.unflatten(0, positions.shape[:2]) for field in fit)
        context = self.cross_attention(part.tokens, whole.tokens, self._token_mask(part), positions)
        crops = torch.cat([whole.crop, part.crop], -1)[:, None].expand(*positions.shape[:2], -1)
        start = self.position_decoder.normalize(positions, depth, whole.crop, part.crop)
        relative_residual = (residual / positions[..., 2:].exp()).log1p()
        fit_features = [relative_residual, visible, log_weight.detach()[..., None]]
        return torch.cat([context, crops, overlay, close_up, start, *fit_features], -1)

    def _token_mask(self, parts: EncodedImages) -> Tensor:
        """(B, M), coverage of the tokens by the part."""
        return (self.to_mask @ foreground(parts.image) @ self.to_mask.T).flatten(1)

    def attended(
        self, wholes: EncodedImages, parts: EncodedImages, whole_of_part: Tensor, positions: Tensor
    ) -> Tensor:
        wholes, parts = self._project_tokens(wholes, parts, whole_of_part)
        whole, mask = wholes.select(whole_of_part), self._token_mask(parts)
        maps = self.cross_attention.attended(parts.tokens, whole.tokens, mask, positions[:, None])
        side = self.encoder.tokens_per_side
        return maps[:, 0].unflatten(-1, (side, side))

    def _correct(
        self, pairs: EncodedPairs, positions: Tensor, depth: Tensor, affine: Tensor, shift: Tensor
    ) -> Tensor:
        """Apply outputs of the pose head to positions (B, K, 3) and depths (B, K, 1).

        Depth varies with the position, in a way that depends on the object: an affine map is
        learned several times faster than a number alone.
        affine: (B, K, AFFINE_OUTPUTS). shift: (B, K, SHIFT_OUTPUTS).
        Returns: normalised positions and depths in the full image, (B, K, 4).
        """
        size = positions[..., 2:].exp()  # (B, K, 1)
        # Shifts count in half sides of the part, a change of size as a factor.
        units = torch.cat([size, size, torch.ones_like(size)], -1)
        positions = positions + CORRECTION_SCALE * shift[..., :3] * units
        depth = depth + CORRECTION_SCALE * shift[..., 3:] * size
        crops = pairs.whole.crop, pairs.part.crop
        normalized = self.position_decoder.normalize(positions, depth, *crops)
        affine = affine.unflatten(-1, (4, 4 + 1))
        change = (affine[..., :4] @ normalized[..., None]).squeeze(-1)  # (B, K, 4)
        return normalized + change + affine[..., 4]

    def predict_at_gt(
        self, pairs: EncodedPairs, gt_pose: PartPose
    ) -> tuple[PartPose, DepthReading | None]:
        """Predict P pairs at their true positions, and compare the depth maps with the true depth.

        The pose head learns from these predictions before good positions are proposed, and the
        depth network from the error of its maps alone. Source: the true boxes among the proposals
        of Faster R-CNN (arXiv:1506.01497).
        """
        whole, part = pairs
        positions = to_crop_frame(self.project(gt_pose)[:, None], whole.crop, part.crop)
        aligned = self.align(pairs, positions)
        certain = torch.zeros_like(positions[..., 0])
        poses, *_ = self.refine(pairs, aligned, positions, certain)
        prediction = PartPose(*(field.squeeze(1) for field in poses))
        if self.depth_net is None:
            return prediction, None
        camera = self.position_decoder.camera
        depth = camera.pinhole.depth(gt_pose.translation) * camera.image_scale
        depth = depth / whole.crop[:, 2:].exp()  # (P, 1), half sides of the whole's crop
        reading = aligned.half_resolution.read_depth(positions[:, 0, 2:].exp())
        return prediction, reading._replace(depth=reading.depth - depth)


def feature_maps(images: EncodedImages) -> Tensor:
    """The first channels of the tokens as maps, (B, F, T, T)."""
    maps = images.tokens[..., :FEATURE_CHANNELS].mT  # (B, F, M)
    side = math.isqrt(maps.shape[-1])
    return maps.unflatten(-1, (side, side))
