"""The network: predicts where a part belongs in a whole, from one image of each.

Shapes: W wholes, B parts, P pairs, S tokens per side, M = S * S, D encoder width, K hypotheses per
pair, F features of a pair.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.data.transforms import Preprocessing
from partloc.model.attention import CrossAttention, pooling_matrix
from partloc.model.camera import PinholeCamera
from partloc.model.crop import resample_crops, to_crop_frame
from partloc.model.depth_net import MAP_SIDE, DepthReading, fit_depth, load_depth_net
from partloc.model.encoder import EncodedImages, ImageEncoder
from partloc.model.pose_head import ConfidenceHead, PoseHead, PosePrior, PositionDecoder
from partloc.model.prediction import Prediction
from partloc.model.refinement import CLOSE_UP_ZOOM, AlignedPair, CloseUpNet, OverlayNet
from partloc.model.template_matching import CELL_PX, TemplateMatching
from partloc.pose import PartPose

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig, TrainConfig

CORRECTION_SCALE = 0.3  # of a position and depth, for a head output of 1
TRAINING_HYPOTHESES = 8  # at most so many per pair in training, which takes less time
# Outputs of the head per proposal: an affine map of position and depth, a score, and a shift.
AFFINE_OUTPUTS, SCORE_OUTPUTS, SHIFT_OUTPUTS = 4 * (4 + 1), 1, 4
CROP_FEATURES = 2 * 3
DEPTH_FIT_FEATURES = 3


class PartLocator(nn.Module):
    """A shared encoder, cross-attention from part to whole, proposals, and a pose head.

    With `match_size: 0` there are no proposals: the head regresses one pose from the tokens.
    """

    def __init__(
        self, config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
    ) -> None:
        """blank: without the weights that come with backbone and depth network."""
        super().__init__()
        self.config, self.preprocessing = config, preprocessing
        self.encoder = ImageEncoder(config, preprocessing, blank)
        width, hidden = self.encoder.backbone.embed_dim, config.mlp_hidden_dim
        self.cross_attention = CrossAttention(
            width,
            config.cross_attention_dim,
            config.cross_attention_layers,
            config.dropout,
            self.encoder.backbone.grid,
            self.encoder.tokens_per_side,
        )
        features, outputs = config.cross_attention_dim + 2 * width + CROP_FEATURES, 4
        self.template_matching = self.depth_net = None
        if config.match_size:
            self.template_matching = TemplateMatching(config.match_size)
            image_side = CLOSE_UP_ZOOM * CELL_PX * config.match_size
            for name, side in (("to_thumbnail", MAP_SIDE), ("to_depth_input", 2 * MAP_SIDE)):
                self.register_buffer(name, pooling_matrix(image_side, side), persistent=False)
            self.depth_net = load_depth_net(blank) if config.depth_maps else None
            self.overlay, self.close_up = OverlayNet(hidden), CloseUpNet(hidden)
            self.position_decoder = PositionDecoder()
            features += 2 * hidden + 4 + DEPTH_FIT_FEATURES
            outputs = AFFINE_OUTPUTS + SCORE_OUTPUTS + SHIFT_OUTPUTS
        self.pose_head = PoseHead(features, hidden, outputs, config.dropout)
        self.confidence_head = ConfidenceHead(hidden)
        self.prior = PosePrior()

    # -- state beside the weights ----------------------------------------------------------------

    def set_camera(self, camera: PinholeCamera) -> None:
        """Predict through a fitted camera: an image position and its depth determine a point."""
        self.position_decoder.set_camera(camera, self.prior)

    def set_trainable(self, train: "TrainConfig", has_camera: bool) -> None:
        """Choose which of the pretrained networks are trained; everything else always is."""
        trained = not train.freeze_backbone
        self.encoder.backbone.requires_grad_(trained)
        if self.depth_net is not None:
            # Without a camera no label says how deep a part lies.
            self.depth_net.requires_grad_(trained and has_camera and train.w_depth > 0)

    @property
    def device(self) -> torch.device:
        return self.prior.center.device

    @property
    def num_hypotheses(self) -> int:
        """Per pair; fewer in training."""
        if self.template_matching is None:
            return 1
        count = self.config.hypotheses
        return min(count, TRAINING_HYPOTHESES) if self.training else count

    @property
    def has_camera(self) -> bool:
        return self.template_matching is not None and self.position_decoder.camera.is_known

    @property
    def pinhole_camera(self) -> PinholeCamera | None:
        """The fitted camera on the CPU, if there is one."""
        if not self.has_camera:
            return None
        camera = self.position_decoder.camera.pinhole
        return PinholeCamera(*(field.cpu() for field in camera[:3]), camera.inlier_fraction)

    def project(self, pose: PartPose) -> Tensor:
        """Poses (..., 3), (..., 1) -> image positions (..., 3): right, down, log size."""
        return self.position_decoder.camera.pinhole.project(pose)

    def confidence(self, logit: Tensor) -> Tensor:
        """Calibrated probability that a hypothesis is within RIGHT_TOLERANCE of a valid target."""
        return self.confidence_head.calibrated(logit)

    def best_confidence(self, prediction: Prediction) -> Tensor:
        """(B,), on the CPU: the confidence of each pair's answer."""
        return self.confidence(prediction.best_confidence_logit.to(self.device)).cpu()

    # -- forward ---------------------------------------------------------------------------------

    def forward(
        self,
        wholes: Tensor | EncodedImages,
        parts: Tensor | EncodedImages,
        whole_of_part: Tensor,
        gt_pose: PartPose | None = None,
        precision: torch.dtype | None = None,
        jitter: Tensor | None = None,
        part_of_pair: Tensor | None = None,
    ) -> Prediction:
        """Predict K pose hypotheses for each of P pairs of a whole and a part.

        Both images are cropped to their content and encoded by one encoder. Part tokens attend to
        whole tokens. The part's image is matched as a template at many sizes; the best positions
        are proposals. At each proposal the depth maps of whole and part give the depth, two
        networks compare the aligned images, and the pose head corrects position and depth and
        scores the proposal. The camera turns position and depth into a pose. The hypothesis with
        the highest weight is the answer.

        Args:
            wholes: (W, 3, H, W), normalised images, or encoded images.
            parts: (B, 3, H, W), normalised images, or encoded images.
            whole_of_part: (B,), index into wholes.
            gt_pose: true poses (P, 3), (P, 1), to predict at their positions as well.
            precision: of the encoder's arithmetic, None for that of its weights.
            jitter: (W + B, 3), of the crops.
            part_of_pair: (P,), index into parts: equal parts are predicted once, but each at its
                own true position. None: every part is one pair.
        """
        if not isinstance(wholes, EncodedImages):
            encoded = self.encode(torch.cat([wholes, parts]), precision, jitter)
            wholes, parts = (
                EncodedImages(*(field[half] for field in encoded))
                for half in (slice(len(wholes)), slice(len(wholes), None))
            )
        return self.predict(wholes, parts, whole_of_part, gt_pose, part_of_pair)

    def encode(
        self,
        images: Tensor,
        precision: torch.dtype | None = None,
        jitter: Tensor | None = None,
    ) -> EncodedImages:
        """Encode normalised images (B, 3, H, W). Everything after the backbone has full precision,
        since three significant digits would show in the poses. jitter: (B, 3), of the crops."""
        crops = self.encoder.find_crops(images, jitter)
        cls, patches = self.encoder(images, crops, precision)
        if self.template_matching is None:
            return EncodedImages(cls, patches, cls[:, :0], cls[:, :0], crops)
        image_side = CLOSE_UP_ZOOM * CELL_PX * self.template_matching.size
        image = resample_crops(images, crops, image_side)
        thumbnail = self.to_thumbnail @ image @ self.to_thumbnail.T
        thumbnail = torch.cat([thumbnail, self._depth_map(image, crops)], 1)
        return EncodedImages(cls, patches, image, thumbnail, crops)

    def _depth_map(self, image: Tensor, crops: Tensor) -> Tensor:
        """(B, 2, MAP_SIDE, MAP_SIDE); zeros without a depth network."""
        if self.depth_net is None:
            return image.new_zeros(len(image), 2, MAP_SIDE, MAP_SIDE)
        return self.depth_net(self.to_depth_input @ image @ self.to_depth_input.T, crops)

    def predict(
        self,
        wholes: EncodedImages,
        part: EncodedImages,
        whole_of_part: Tensor,
        gt_pose: PartPose | None = None,
        part_of_pair: Tensor | None = None,
    ) -> Prediction:
        """Predict from W encoded wholes and B encoded parts; arguments as in `forward`."""
        if part_of_pair is None:
            part_of_pair = torch.arange(len(whole_of_part), device=whole_of_part.device)
        attended = self.cross_attention(part.patches, wholes.patches, whole_of_part)  # (B, C)
        whole = wholes.select(whole_of_part)
        context = torch.cat([attended, part.cls, whole.cls, whole.crop, part.crop], -1)  # (B, F)
        if self.template_matching is None:
            return self._regress(context).select(part_of_pair)

        images = (F.avg_pool2d(each.image, CLOSE_UP_ZOOM) for each in (wholes, part))
        match = self.template_matching(*images, whole_of_part, self.num_hypotheses)
        pair = self._align(whole, part, match.proposals)
        hypotheses, score, hidden = self._refine(
            whole, part, context, match.proposals, match.log_weight, pair
        )
        log_weight = (score + match.log_weight).log_softmax(1)
        prediction = Prediction(
            hypotheses,
            log_weight,
            self.confidence_head(hidden, log_weight),
            self.template_matching.positions,
            match.log_probability,
            match.proposals,
            torch.cat([whole.crop, part.crop], -1),
        ).select(part_of_pair)
        if gt_pose is None:
            return prediction
        pair_images = whole.select(part_of_pair), part.select(part_of_pair)
        gt_prediction, error = self._predict_at_gt(*pair_images, context[part_of_pair], gt_pose)
        return prediction._replace(gt_prediction=gt_prediction, depth_error=error)

    def _regress(self, context: Tensor) -> Prediction:
        """One hypothesis from the features of the pair alone."""
        raw, hidden = self.pose_head(context[:, None])  # (B, 1, 4)
        log_weight = torch.zeros_like(raw[..., 0])
        logit = self.confidence_head(hidden, log_weight)
        return Prediction(self.prior(raw), log_weight, logit)

    def _align(self, whole: EncodedImages, part: EncodedImages, positions: Tensor) -> AlignedPair:
        """Close-ups at positions (B, K, 3) in the crops."""
        depths = whole.thumbnail[:, 3:], part.thumbnail[:, 3:]
        return self.close_up.align(whole.image, depths[0], part.image, depths[1], positions)

    def _refine(
        self,
        whole: EncodedImages,
        part: EncodedImages,
        context: Tensor,
        positions: Tensor,
        log_weight: Tensor,
        pair: AlignedPair,
    ) -> tuple[PartPose, Tensor, Tensor]:
        """Predict the pose at each position (B, K, 3) in the crops.

        context: (B, F). log_weight: (B, K). pair: the close-ups there.
        Returns: poses (B, K, .), scores (B, K), hidden features of the pose head (B, K, .).
        """
        # The depth network is trained by `depth_error` alone.
        pair, thumbnails = pair.detach(), (whole.thumbnail.detach(), part.thumbnail.detach())
        size = positions[..., 2:].exp()  # (B, K, 1)
        coarse = pair.half_resolution  # enough for depth maps
        fit = fit_depth(coarse.read_depth(size.flatten(0, 1)), coarse.mask)
        overlay = self.overlay(*thumbnails, positions, fit.depth)  # (B, K, C)
        close_up = self.close_up(pair, positions, fit.depth)  # (B, K, C)
        depth, residual, visible = (each.unflatten(0, positions.shape[:2]) for each in fit)
        context = context[:, None].expand(-1, positions.shape[1], -1)
        fit_features = [(residual / size).log1p(), visible, log_weight.detach()[..., None]]
        fit_features = torch.cat(fit_features, -1)
        decoder, crops = self.position_decoder, (whole.crop, part.crop)
        start = decoder.normalize(positions, depth, *crops)
        outputs, hidden = self.pose_head(
            torch.cat([context, overlay, close_up, start, fit_features], -1)
        )
        affine, score, shift = outputs.split([AFFINE_OUTPUTS, SCORE_OUTPUTS, SHIFT_OUTPUTS], -1)
        # Shifts count in half sides of the part, a change of size as a factor.
        units = torch.cat([size, size, torch.ones_like(size)], -1)
        moved = positions + CORRECTION_SCALE * shift[..., :3] * units
        moved_depth = depth + CORRECTION_SCALE * shift[..., 3:] * size
        corrected = decoder.normalize(moved, moved_depth, *crops)
        # Depth varies with the position, in a way that depends on the object: an affine map is
        # learned several times faster than a number alone.
        affine = affine.unflatten(-1, (4, 5))  # (B, K, 4, 4 + 1)
        corrected = (
            corrected + (affine[..., :4] @ corrected[..., None]).squeeze(-1) + affine[..., 4]
        )
        return self.prior(decoder(corrected, self.prior)), score.squeeze(-1), hidden

    def _predict_at_gt(
        self,
        whole: EncodedImages,
        part: EncodedImages,
        context: Tensor,
        gt_pose: PartPose,
    ) -> tuple[PartPose, DepthReading | None]:
        """The poses of P pairs predicted at their true positions, and the error of the depth maps.

        The pose head learns from them before good positions are proposed, and the depth network
        from nothing else. Source: the true boxes among the proposals of Faster R-CNN
        (arXiv:1506.01497).
        """
        camera = self.position_decoder.camera
        positions = to_crop_frame(self.project(gt_pose)[:, None], whole.crop, part.crop)
        pair = self._align(whole, part, positions)
        certain = torch.zeros_like(positions[..., 0])
        poses, *_ = self._refine(whole, part, context, positions, certain, pair)
        prediction = PartPose(*(field.squeeze(1) for field in poses))
        if self.depth_net is None:
            return prediction, None
        depth = camera.pinhole.depth(gt_pose.translation) * camera.image_scale
        depth = depth / whole.crop[:, 2:].exp()
        reading = pair.half_resolution.read_depth(positions[:, 0, 2:].exp())
        return prediction, reading._replace(depth=reading.depth - depth)
