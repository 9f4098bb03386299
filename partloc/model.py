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
from partloc.matching import STRIDE, TemplateMatch
from partloc.pose import PartPose


class Tokens(NamedTuple):
    """What the encoder says of an image: class token (B, D), pooled patch tokens (B, M, D)."""

    cls: Tensor
    patches: Tensor

    def pick(self, index: Tensor) -> "Tokens":
        return Tokens(self.cls.index_select(0, index), self.patches.index_select(0, index))


class Prediction(NamedTuple):
    """pose: the answer, (B, 3) and (B, 1). With template matching also all that it weighed:

    places: the poses of the H hypotheses, (H, 3) and (H, 1); log_probability: (B, H).
    """

    pose: PartPose
    places: PartPose | None = None
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
        self.match = TemplateMatch(size, depth, config.match_dim) if config.match_dim else None
        evidence = width + 2 * depth + (7 + config.match_dim if config.match_dim else 0)
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
        # The pose that a place in the image stands for; the users' camera is not known.
        self.view = nn.Linear(3, 4) if config.match_dim else None
        if self.view:
            nn.init.zeros_(self.view.weight)
            nn.init.zeros_(self.view.bias)
        self.register_buffer("center", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))

    @torch.no_grad()
    def set_prior(self, table: PairTable) -> None:
        """Start from the median training pose, and answer in units of its spread."""
        poses = torch.cat([table.translation, table.scale.log()], 1)  # (N, 4)
        self.center.copy_(poses.quantile(0.5, dim=0))
        self.spread.copy_((poses - self.center).abs().mean(0).clamp(min=1e-3))

    def encode(self, images: Tensor) -> Tokens:
        """(B, 3, H, W), normalised -> tokens."""
        cls, patches = self.backbone(images)
        return Tokens(cls, self.pool(patches))

    def locate(self, whole: Tokens, part: Tokens) -> Prediction:
        """Tokens of B pairs -> poses (B, 3), (B, 1)."""
        asked, answering = self.project(part.patches), self.project(whole.patches)
        for layer in self.layers:
            asked = layer(asked, answering, self.position)  # (B, M, C)
        evidence = [self.summary(asked), part.cls, whole.cls]
        if self.match is None:
            return Prediction(self._pose(self.head(torch.cat(evidence, -1)).float()))
        match = self.match(part.patches, whole.patches)
        evidence += [match.best, match.mean, match.features, match.doubt]
        residual = self.head(torch.cat(evidence, -1)).float()  # (B, 4)
        with torch.autocast(residual.device.type, enabled=False):
            pose = self._pose(self._view(match.best) + residual)
            places = self._pose(self._view(self.match.places))
        return Prediction(pose, places, match.log_probability)

    def _view(self, places: Tensor) -> Tensor:
        """(B, 3) places in the image -> (B, 4) poses in units of the prior's spread."""
        return STRIDE * self.view(places)

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
