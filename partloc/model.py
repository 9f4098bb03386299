"""The network: one shared encoder, cross-attention from part to whole, a head for the pose.

Shapes: B pairs, W wholes, G patches a side of the encoder, S tokens a side after pooling,
M = S * S, D encoder width, C fusion width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from partloc.backbone import build_backbone
from partloc.config import ModelConfig
from partloc.data import PairTable, Preprocessing
from partloc.fusion import AttentionPool, CrossAttention, TokenPool, bin_centres, position_code
from partloc.matching import TemplateMatch
from partloc.pose import PartPose
from partloc.view import View


class Tokens(NamedTuple):
    """What is known of B images: class token (B, D), pooled patch tokens (B, M, D).

    picture: (B, 3, 4 S, 4 S), the image itself, small, and cells: (B, C, S, S), its local
    appearance, for template matching; empty without it.
    """

    cls: Tensor
    patches: Tensor
    picture: Tensor
    cells: Tensor

    def pick(self, index: Tensor) -> "Tokens":
        return Tokens(*(field.index_select(0, index) for field in self))


class Prediction(NamedTuple):
    """pose: the answer, (B, 3) and (B, 1). With template matching also what it weighed:

    places: (H, 3), right, down and log size; log_probability: (B, H).
    """

    pose: PartPose
    places: Tensor | None = None
    log_probability: Tensor | None = None


class PartLocator(nn.Module):
    def __init__(self, config: ModelConfig, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.config, self.preprocessing = config, preprocessing
        self.backbone = build_backbone(
            config.backbone_name, preprocessing.image_size, config.pretrained, config.weights
        )
        grid, size = self.backbone.grid, min(config.downsample_size, self.backbone.grid)
        depth, width = self.backbone.embed_dim, config.cross_attention_dim
        self.pool = TokenPool(grid, size)
        self.project = nn.Sequential(nn.LayerNorm(depth), nn.Linear(depth, width))
        nn.init.orthogonal_(self.project[1].weight)
        position = position_code(bin_centres(grid, size), width)
        self.register_buffer("position", position, persistent=False)
        self.layers = nn.ModuleList(
            CrossAttention(width, config.cross_attention_heads, config.dropout)
            for _ in range(config.cross_attention_layers)
        )
        self.summary = AttentionPool(width)
        self.match = None
        evidence = width + 2 * depth
        if config.match_features:
            self.match = TemplateMatch(size, depth, config.match_features, config.match_upsampling)
            evidence += 3 + 3 + (config.match_features + 3) + 1
            # The pose that a place in the image stands for, to begin with.
            self.lift, self.trust = nn.Linear(3, 4), nn.Linear(evidence, 1)
            nn.init.zeros_(self.lift.weight)
            nn.init.zeros_(self.lift.bias)
            self.register_buffer("view_slope", torch.zeros(2, 3))
            self.register_buffer("view_offset", torch.zeros(2))
        self.head = nn.Sequential(
            nn.LayerNorm(evidence),
            nn.Linear(evidence, config.mlp_hidden_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_hidden_dim, config.mlp_hidden_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_hidden_dim, 4),
        )
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)
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
        """Start from the fitted camera: a matched place is answered with the point behind it that
        is nearest to the middle of the data."""
        self.view_slope.copy_(view.slope)
        self.view_offset.copy_(view.offset)
        back = torch.linalg.pinv(view.slope)  # (3, 2)
        self.lift.weight.zero_()
        self.lift.weight[:3, :2] = back / self.spread[:3, None]
        self.lift.weight[3, 2] = 1 / self.spread[3]
        self.lift.bias[:3] = (-back @ view.offset - self.center[:3]) / self.spread[:3]
        self.lift.bias[3] = -self.center[3] / self.spread[3]

    @property
    def knows_view(self) -> bool:
        return self.match is not None and bool(self.view_slope.any())

    def place_of(self, pose: PartPose) -> Tensor:
        """Where poses (..., 3), (..., 1) appear in the image: (..., 3), right, down, log scale."""
        plane = pose.translation @ self.view_slope.T + self.view_offset
        return torch.cat([plane, pose.scale.log()], -1)

    def encode(self, images: Tensor) -> Tokens:
        """(B, 3, H, W), normalised -> tokens."""
        cls, patches = self.backbone(images)
        patches = self.pool(patches)
        if self.match is None:
            return Tokens(cls, patches, images[:, :0], images[:, :0])
        picture = self.match.picture(images)
        return Tokens(cls, patches, picture, self.match.cells(picture))

    def locate(self, whole: Tokens, part: Tokens) -> Prediction:
        """Tokens of B pairs -> poses (B, 3), (B, 1)."""
        asked, answering = self.project(part.patches), self.project(whole.patches)
        for layer in self.layers:
            asked = layer(asked, answering, self.position)  # (B, M, C)
        evidence = [self.summary(asked), part.cls, whole.cls]
        if self.match is None:
            return Prediction(self._pose(self.head(torch.cat(evidence, -1)).float()))
        match = self.match(part.patches, part.picture, whole.cells)
        evidence += [match.best, match.mean, match.features, match.doubt]
        evidence = torch.cat(evidence, -1).float()
        residual = self.head(evidence).float()  # (B, 4)
        with torch.autocast(residual.device.type, enabled=False):
            # A doubtful match counts less: the error of a wrong one is large.
            trust = self.trust(evidence).sigmoid()  # (B, 1)
            pose = self._pose(trust * self.lift(match.best) + residual)
        return Prediction(pose, self.match.places, match.log_probability)

    def _pose(self, raw: Tensor) -> PartPose:
        raw = self.center + self.spread * raw
        # exp keeps the scale positive; the clamp keeps it, and its gradient, within a float.
        return PartPose(raw[:, :3], raw[:, 3:].clamp(-7, 2).exp())

    def forward(self, wholes: Tensor, parts: Tensor, whole_of_part: Tensor) -> Prediction:
        """wholes (W, 3, H, W), parts (B, 3, H, W), whole_of_part (B,) -> poses of the B parts."""
        tokens = self.encode(torch.cat([wholes, parts]))
        whole = tokens.pick(whole_of_part)
        part = Tokens(*(field[len(wholes) :] for field in tokens))
        return self.locate(whole, part)
