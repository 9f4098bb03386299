"""The network: one shared encoder, cross-attention from part to whole, proposals, a head.

Shapes: B pairs, W wholes, G patches a side of the encoder, S tokens a side after pooling,
M = S * S, D encoder width, C fusion width, K hypotheses a pair.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.model.attention import (
    AttentionPool,
    CrossAttention,
    TokenPool,
    bin_centres,
    pooling_matrix,
    position_code,
)
from partloc.model.backbone import build_backbone
from partloc.model.camera import View
from partloc.model.crop import content_crops, into_crops, jittered, out_of_crops, resample
from partloc.model.depth_net import SIDE, DepthReading, fit_depth, load_depth_net
from partloc.model.prediction import Prediction
from partloc.model.refinement import FINER, CloseUp, Look, Overlay
from partloc.model.template_matching import PIXELS, TemplateMatch
from partloc.pose import PartPose

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import ModelConfig, TrainConfig

# Of a place's correction: what the head's 1 means.
STEP = 0.3
# Nothing in the unit cube is further than this from its middle, model units.
DEPTH = 3**0.5 / 2


class Tokens(NamedTuple):
    """What is known of B images: class token (B, D), pooled patch tokens (B, M, D).

    picture: (B, 3, 8 S, 8 S), S cells of the matching, the image itself, and thumbnail
    (B, 5, SIDE, SIDE), small and with its depth map, for template matching and what follows it;
    empty without it. crop: (B, 3), what of the image all of this shows, see `crop.content_crops`.
    """

    cls: Tensor
    patches: Tensor
    picture: Tensor
    thumbnail: Tensor
    crop: Tensor

    def pick(self, index: Tensor) -> "Tokens":
        return Tokens(*(field.index_select(0, index) for field in self))

    def compact(self) -> "Tokens":
        """In half the bits. Features need the range of bfloat16; of a picture half precision
        keeps sixteen steps and more between two of its 256 levels."""
        features = (field.bfloat16() for field in (self.cls, self.patches))
        return Tokens(*features, self.picture.half(), self.thumbnail.half(), self.crop.half())

    def float(self) -> "Tokens":
        return Tokens(*(field.float() for field in self))


class PartLocator(nn.Module):
    def __init__(
        self, config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
    ) -> None:
        """blank: with an encoder that has no weights yet, see build_backbone."""
        super().__init__()
        self.config, self.preprocessing = config, preprocessing
        self.backbone = build_backbone(
            config.backbone_name,
            preprocessing.image_size,
            config.pretrained,
            config.weights,
            blank,
        )
        grid, size = self.backbone.grid, min(config.downsample_size, self.backbone.grid)
        depth, width = self.backbone.embed_dim, config.cross_attention_dim
        self.pool = TokenPool(grid, size)
        self.project = nn.Sequential(nn.LayerNorm(depth), nn.Linear(depth, width))
        nn.init.orthogonal_(self.project[1].weight)
        position = position_code(bin_centres(grid, size), width)
        if config.position == "none":
            position = torch.zeros_like(position)
        self.register_buffer("position", position, persistent=False)
        self.layers = nn.ModuleList(
            CrossAttention(
                width, config.cross_attention_heads, config.dropout, config.similar_start
            )
            for _ in range(config.cross_attention_layers)
        )
        self.summary = AttentionPool(width)
        self.match = self.depth_net = None
        evidence, answers = width + 2 * depth + 2 * 3, 4
        if config.match_size:
            self.match = TemplateMatch(config.match_size)
            for name, side in (("thumb", SIDE), ("sketch", 2 * SIDE)):
                shrink = pooling_matrix(FINER * PIXELS * config.match_size, side)
                self.register_buffer(name, shrink, persistent=False)
            self.depth_net = load_depth_net(blank) if config.depth_maps else None
            self.overlay, self.closeup = (
                Overlay(config.mlp_hidden_dim),
                CloseUp(config.mlp_hidden_dim),
            )
            evidence += 2 * config.mlp_hidden_dim + 4 + 3
            # Of each hypothesis: two corrections of place and depth, of which one is an affine map
            # of them, and its merit.
            answers = 4 * (4 + 1) + 1 + 4
            # From place and depth to the pose: the camera, where none is known.
            self.lift = nn.Linear(4, 4)
            nn.init.zeros_(self.lift.weight)
            nn.init.zeros_(self.lift.bias)
            self.register_buffer("view_slope", torch.zeros(2, 3))
            self.register_buffer("view_offset", torch.zeros(2))
            self.register_buffer("view_fading", torch.zeros(()))
            self.register_buffer("place_center", torch.zeros(4))
            self.register_buffer("place_spread", torch.ones(4))
        self.head = nn.Sequential(
            nn.LayerNorm(evidence),
            nn.Linear(evidence, config.mlp_hidden_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_hidden_dim, config.mlp_hidden_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_hidden_dim, answers),
        )
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)
        # Whether an answer is right; learns from what was found, and changes nothing there.
        self.sure = nn.Linear(config.mlp_hidden_dim + 1, 1)
        nn.init.zeros_(self.sure.weight)
        nn.init.zeros_(self.sure.bias)
        # What that is worth on other models, see calibration; nothing is known to begin with.
        self.register_buffer("confidence_slope", torch.ones(()))
        self.register_buffer("confidence_offset", torch.zeros(()))
        self.register_buffer("center", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))

    @torch.no_grad()
    def set_prior(self, table: PairTable) -> None:
        """Start from the median training pose, and answer in units of its spread."""
        poses = torch.cat([table.translation, table.scale.log()], 1)  # (N, 4)
        self.center.copy_(poses.quantile(0.5, dim=0))
        self.spread.copy_((poses - self.center).abs().mean(0).clamp(min=1e-3))

    @torch.no_grad()
    def set_view(self, view: View) -> None:
        """Answer through the fitted camera: a matched place and its depth are a point."""
        self.view_slope.copy_(view.slope)
        self.view_offset.copy_(view.offset)
        self.view_fading.copy_(view.fading)
        middle = PartPose(self.center[:3], self.center[3:].exp())
        self.place_center.copy_(torch.cat([view.place(middle), view.depth(middle.translation)]))
        across = (view.slope.square() @ self.spread[:3].square()).sqrt()
        along = (view.forward * self.spread[:3]).norm(dim=0, keepdim=True)
        self.place_spread.copy_(torch.cat([across, self.spread[3:], along]).clamp(min=1e-3))

    def set_learning(self, train: "TrainConfig", has_camera: bool) -> None:
        """Which of the networks that come with weights learn on; fusion and head always do."""
        learns = not train.freeze_backbone
        self.backbone.requires_grad_(learns)
        if self.depth_net is not None:
            # Without a camera no label tells how deep a part is.
            self.depth_net.requires_grad_(learns and has_camera and train.w_depth > 0)

    @property
    def hypotheses(self) -> int:
        """How many it gives for a pair; fewer while it learns, see `training_hypotheses`."""
        if self.match is None:
            return 1
        count = self.config.hypotheses
        return min(count, self.config.training_hypotheses) if self.training else count

    def confidence(self, log_odds: Tensor) -> Tensor:
        """The probability, calibrated, that a hypothesis is right: its translation nearer than
        `pose.NEAR` to the truth."""
        return (self.confidence_slope * log_odds + self.confidence_offset).sigmoid()

    def answer_confidence(self, found: Prediction) -> Tensor:
        """(B,), on the CPU: the same, of each pair's answer."""
        return self.confidence(found.answer_log_odds.to(self.center.device)).cpu()

    @property
    def knows_view(self) -> bool:
        return self.match is not None and bool(self.view_slope.any())

    @property
    def view(self) -> View | None:
        """The fitted camera, if any; on the CPU."""
        if not self.knows_view:
            return None
        return View(*(field.cpu() for field in self._view[:3]), math.nan)

    @property
    def _view(self) -> View:
        return View(self.view_slope, self.view_offset, self.view_fading, math.nan)

    @property
    def _unit(self) -> Tensor:
        """() half image sides of a model unit; 1 where no camera is known."""
        unit = self._view.unit
        return torch.where(unit > 0, unit, 1.0)

    def place_of(self, pose: PartPose) -> Tensor:
        """Where poses (..., 3), (..., 1) appear in the image: (..., 3), right, down, log size."""
        return self._view.place(pose)

    def encode(
        self,
        images: Tensor,
        precision: torch.dtype | None = None,
        jitter: Tensor | None = None,
    ) -> Tokens:
        """(B, 3, H, W), normalised -> tokens in float32.

        precision: of the encoder's arithmetic, None for the weights' own. What reads the answer
        off the tokens always has the full one, since three significant digits would show in it.
        jitter: (B, 3), of the crops, see `data.jitter_of`.
        """
        crop = images.new_zeros(len(images), 3)
        if self.config.crop:
            crop = content_crops(images)
            if jitter is not None:
                crop = jittered(crop, jitter)
        seen = resample(images, crop, self.preprocessing.image_size)
        with torch.autocast(images.device.type, precision, enabled=precision is not None):
            cls, patches = self.backbone(seen)
            cls, patches = cls.float(), self.pool(patches).float()
        if self.match is None:
            return Tokens(cls, patches, cls[:, :0], cls[:, :0], crop)
        picture = resample(images, crop, FINER * PIXELS * self.match.size)
        thumbnail, depths = self.thumb @ picture @ self.thumb.T, self._depth_map(picture, crop)
        return Tokens(cls, patches, picture, torch.cat([thumbnail, depths], 1), crop)

    def _depth_map(self, picture: Tensor, crop: Tensor) -> Tensor:
        """(B, 2, SIDE, SIDE); flat where the model makes none."""
        if self.depth_net is None:
            return picture.new_zeros(len(picture), 2, SIDE, SIDE)
        return self.depth_net(self.sketch @ picture @ self.sketch.T, crop)

    def locate(
        self, wholes: Tokens, part: Tokens, whole_of_part: Tensor, guides: PartPose | None = None
    ) -> Prediction:
        """Tokens of W wholes and B parts, and the whole of each, (B,) -> K hypotheses for B parts.

        guides: true poses, (B, 3) and (B, 1), for whose places to answer beside those proposed.
        From these the head learns, before good ones are proposed, and the depth network, from
        nothing else. Source: the true boxes among the sampled ones of Faster R-CNN
        (arXiv:1506.01497).
        """
        asked, answering = self.project(part.patches), self.project(wholes.patches)[whole_of_part]
        for layer in self.layers:
            asked = layer(asked, answering, self.position)  # (B, M, C)
        whole = wholes.pick(whole_of_part)
        evidence = [self.summary(asked), part.cls, whole.cls, whole.crop, part.crop]
        evidence = torch.cat(evidence, -1)
        if self.match is None:
            raw, found = self._read(evidence[:, None])  # (B, 1, 4)
            log_share = torch.zeros_like(raw[..., 0])
            return Prediction(self._pose(raw), log_share, self._log_odds(found, log_share))
        pictures = (F.avg_pool2d(each, FINER) for each in (wholes.picture, part.picture))
        match = self.match(*pictures, whole_of_part, self.hypotheses)
        look = self._look(whole, part, match.proposals)
        hypotheses, merit, found = self._answer(
            whole, part, evidence, match.proposals, match.log_share, look
        )
        guided = misread = None
        if guides is not None:
            guided, misread = self._guided(whole, part, evidence, guides)
        log_share = (merit + match.log_share).log_softmax(1)
        crops = torch.cat([whole.crop, part.crop], -1)
        told = (log_share, self._log_odds(found, log_share))
        weighed = (self.match.places, match.log_probability, match.proposals, crops)
        return Prediction(hypotheses, *told, *weighed, guided, misread)

    def _guided(
        self, whole: Tokens, part: Tokens, evidence: Tensor, guides: PartPose
    ) -> tuple[PartPose, DepthReading | None]:
        """The answers at the true places, and what `Prediction.misread` is, where there are depth
        maps."""
        places = into_crops(self.place_of(guides)[:, None], whole.crop, part.crop)
        look = self._look(whole, part, places)
        sure = torch.zeros_like(places[..., 0])
        answers, *_ = self._answer(whole, part, evidence, places, sure, look)
        guided = PartPose(*(field.squeeze(1) for field in answers))
        if self.depth_net is None:
            return guided, None
        depth = self._view.depth(guides.translation) * self._unit / whole.crop[:, 2:].exp()
        reading = look.coarse.read_depth(places[:, 0, 2:].exp())
        return guided, reading._replace(depth=reading.depth - depth)

    def _look(self, whole: Tokens, part: Tokens, places: Tensor) -> Look:
        """Close up, at places in the crops (B, K, 3)."""
        maps = whole.thumbnail[:, 3:], part.thumbnail[:, 3:]
        return self.closeup.look(whole.picture, maps[0], part.picture, maps[1], places)

    def _answer(
        self,
        whole: Tokens,
        part: Tokens,
        evidence: Tensor,
        places: Tensor,
        log_share: Tensor,
        look: Look,
    ) -> tuple[PartPose, Tensor, Tensor]:
        """For each place in the crops (B, K, 3), looked at: the pose there, its merit (B, K) beside
        its share, and what the head has found (B, K, .)."""
        # The depth network learns from `misread` alone.
        look, thumbnails = look.detach(), (whole.thumbnail.detach(), part.thumbnail.detach())
        size = places[..., 2:].exp()  # (B, K, 1)
        some = look.coarse  # depth maps have no more to say
        fit = fit_depth(some.read_depth(size.flatten(0, 1)), some.mask)
        seen = self.overlay(*thumbnails, places, fit.depth)  # (B, K, .)
        near = self.closeup(look, places, fit.depth)  # (B, K, .)
        depth, residual, shown = (each.unflatten(0, places.shape[:2]) for each in fit)
        every = evidence[:, None].expand(-1, places.shape[1], -1)
        doubt = torch.cat([(residual / size).log1p(), shown, log_share.detach()[..., None]], -1)
        where = self._where(places, depth, whole.crop, part.crop)
        answer, found = self._read(torch.cat([every, seen, near, where, doubt], -1))
        bend, merit, shift = answer.split([20, 1, 4], -1)
        # A shift counts in the part's own half sides, a change of size as a factor.
        moved = places + STEP * shift[..., :3] * torch.cat([size, size, torch.ones_like(size)], -1)
        where = self._where(moved, depth + STEP * shift[..., 3:] * size, whole.crop, part.crop)
        # Depth also goes with the place, but how depends on the thing: such a map is learned
        # several times faster than a number alone.
        bend = bend.unflatten(-1, (4, 5))  # (B, K, 4, 4 + 1)
        where = where + (bend[..., :4] @ where[..., None]).squeeze(-1) + bend[..., 4]
        pose = self._pose(self.lift(where) + self._seen_from(where))
        return pose, merit.squeeze(-1), found

    def _read(self, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """The head's raw answers to (B, K, .), and what it has found before it answers."""
        found = self.head[:-1](evidence)
        return self.head[-1](found), found

    def _log_odds(self, found: Tensor, log_share: Tensor) -> Tensor:
        """(B, K, .), (B, K) -> (B, K)."""
        return self.sure(torch.cat([found, log_share[..., None]], -1).detach()).squeeze(-1)

    def _where(self, places: Tensor, depth: Tensor, whole: Tensor, part: Tensor) -> Tensor:
        """Places (B, K, 3) and depths (B, K, 1) in the crops -> (B, K, 4): right, down, log size
        that appears, and depth in model units, all in units of their spread."""
        depth = depth * whole[:, None, 2:].exp() / self._unit
        where = torch.cat([out_of_crops(places, whole, part), depth], -1)
        return (where - self.place_center) / self.place_spread

    def _seen_from(self, where: Tensor) -> Tensor:
        """Raw answers (B, K, 4) of what the camera sees there; zeros where none is known."""
        where = self.place_center + self.place_spread * where
        pose = self._view.pose(where[..., :3], where[..., 3:].clamp(-DEPTH, DEPTH))
        raw = torch.cat([pose.translation, pose.scale.log()], -1)
        known = self._view.unit > 0
        return torch.where(known, (raw - self.center) / self.spread, 0.0)

    def _pose(self, raw: Tensor) -> PartPose:
        raw = self.center + self.spread * raw
        # exp keeps the scale positive; the clamp keeps it, and its gradient, within a float.
        translation, log_scale = raw[..., :3], raw[..., 3:].clamp(-7, 2)
        if not self.training:  # else there would be no gradient to lead back into the whole
            translation, log_scale = translation.clamp(-0.5, 0.5), log_scale.clamp(max=0)
        return PartPose(translation, log_scale.exp())

    def forward(
        self,
        wholes: Tensor | Tokens,
        parts: Tensor | Tokens,
        whole_of_part: Tensor,
        guides: PartPose | None = None,
        precision: torch.dtype | None = None,
        jitter: Tensor | None = None,
    ) -> Prediction:
        """wholes (W, 3, H, W), parts (B, 3, H, W), whole_of_part (B,) -> hypotheses for B parts.

        jitter: (W + B, 3). Tokens of both, where they are known, save their encoding.
        """
        if not isinstance(wholes, Tokens):
            tokens = self.encode(torch.cat([wholes, parts]), precision, jitter)
            wholes, parts = (
                Tokens(*(field[half] for field in tokens))
                for half in (slice(len(wholes)), slice(len(wholes), None))
            )
        return self.locate(wholes, parts, whole_of_part, guides)
