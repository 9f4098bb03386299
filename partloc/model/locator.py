"""The network: predicts where a part belongs in a whole, from one image of each.

`PartLocator` is what the two methods have in common: the image encoder and the heads.
`proposals.ProposalLocator` and `regression.DirectRegression` predict poses from encoded images;
`build.build_locator` chooses between them.

Shapes: W wholes, B parts, P pairs, M tokens per image, D backbone width, C
width of projected tokens, K hypotheses per pair.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from partloc.data.transforms import Preprocessing
from partloc.model.camera import PinholeCamera
from partloc.model.depth_net import DepthNet
from partloc.model.encoder import EncodedImages, ImageEncoder, TokenProjection
from partloc.model.pose_head import ConfidenceHead, PoseHead, PosePrior
from partloc.model.prediction import Prediction
from partloc.pose import PartPose

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig, TrainConfig

CROP_FEATURES = 3  # of an image, see `crop.content_crops`


class PartLocator(nn.Module):
    """Base of both methods: image encoder, heads and prior.

    A subclass adds its networks, calls `add_heads`, and defines the methods that raise
    NotImplementedError here.
    """

    def __init__(
        self, config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
    ) -> None:
        """blank: without the weights that come with backbone and depth network."""
        super().__init__()
        self.config, self.preprocessing = config, preprocessing
        self.encoder = ImageEncoder(config, preprocessing, blank)
        width = self.encoder.backbone.embed_dim
        self.projection = TokenProjection(width, config.cross_attention_dim)
        self.depth_net: DepthNet | None = None

    def add_heads(self, features: int, outputs: int) -> None:
        """Add pose head, confidence head and prior.

        They follow the networks of the subclass, because the order of the parameters determines
        the random initialisation and the rounding of the gradient's norm.
        """
        hidden = self.config.mlp_hidden_dim
        self.pose_head = PoseHead(features, hidden, outputs, self.config.dropout)
        self.confidence_head = ConfidenceHead(hidden)
        self.prior = PosePrior()

    # -- properties ------------------------------------------------------------------------------

    def set_trainable(self, train: "TrainConfig", has_camera: bool) -> None:
        """Choose which of the pretrained networks are trained; everything else always is."""
        self.encoder.backbone.requires_grad_(not train.freeze_backbone)

    def fade_tokens(self) -> None:
        """Make the predictions nearly independent of the encoder, which training can undo; only of
        a model that has other evidence."""

    @property
    def device(self) -> torch.device:
        return self.prior.center.device

    @property
    def num_hypotheses(self) -> int:
        """K."""
        return 1

    @property
    def attention_side(self) -> int | None:
        """S of `attended`; None if the model has no such maps."""
        return None

    @property
    def pinhole_camera(self) -> PinholeCamera | None:
        """The fitted camera on the CPU, if there is one."""
        return None

    @property
    def has_camera(self) -> bool:
        return self.pinhole_camera is not None

    @property
    def encoded_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each field of `EncodedImages`, for one image."""
        tokens = (self.encoder.tokens_per_side**2, self.encoder.backbone.embed_dim)
        return tokens, *self.crop_shapes, (CROP_FEATURES,)

    def project(self, pose: PartPose) -> Tensor:
        """Poses (..., 3), (..., 1) -> image positions (..., 3): right, down, log size.

        Only if the model has a camera.
        """
        raise NotImplementedError

    def confidence(self, logit: Tensor) -> Tensor:
        """Calibrated probability that a hypothesis is within RIGHT_TOLERANCE of a valid target."""
        return self.confidence_head.calibrated(logit)

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

        Both images are cropped to their content and encoded by one encoder. The part is matched as
        a template at many sizes, by its colours, edges and tokens; the best positions are
        proposals. At each proposal the part's tokens attend to the whole's, the depth maps of whole
        and part give the depth, and two networks compare the aligned images. The pose head corrects
        position and depth and scores the proposal. The camera turns position and depth into a pose.
        The hypothesis with the highest weight is the answer.

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
        if isinstance(wholes, Tensor) and isinstance(parts, Tensor):
            encoded = self.encode(torch.cat([wholes, parts]), precision, jitter)
            wholes, parts = (
                EncodedImages(*(field[half] for field in encoded))
                for half in (slice(len(wholes)), slice(len(wholes), None))
            )
        assert isinstance(wholes, EncodedImages) and isinstance(parts, EncodedImages)
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
        tokens = self.encoder(images, crops, precision)
        return EncodedImages(tokens, *self.crop_images(images, crops), crops)

    @property
    def crop_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of what `crop_images` returns, for one image."""
        raise NotImplementedError

    def crop_images(self, images: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The fields `image` and `thumbnail` of `EncodedImages`, from normalised images
        (B, 3, H, W) and their crops (B, 3)."""
        raise NotImplementedError

    def predict(
        self,
        wholes: EncodedImages,
        parts: EncodedImages,
        whole_of_part: Tensor,
        gt_pose: PartPose | None = None,
        part_of_pair: Tensor | None = None,
    ) -> Prediction:
        """Predict from W encoded wholes and B encoded parts; arguments as in `forward`."""
        raise NotImplementedError

    def attended(
        self, wholes: EncodedImages, parts: EncodedImages, whole_of_part: Tensor, positions: Tensor
    ) -> Tensor:
        """How much each of B parts, put at a position (B, 3), attends to each place of its whole,
        (B, S, S) over the whole's crop; S tokens per side. Only with template matching."""
        raise NotImplementedError
