"""Baseline network: direct pose regression from cross-attention, mean pooling and an L1 loss.

The same encoder as partloc's from random weights; positions are added to queries and keys.

Shapes: W wholes, U parts, P pairs of a batch; M pooled tokens of an image; C width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from partloc.config import Config
from partloc.data.dataset import Batch
from partloc.model.attention import HEAD_DIM, TokenPool, bin_centers, position_encoding
from partloc.model.backbone import build_backbone
from partloc.pose import PartPose

LEARNING_RATE, WEIGHT_DECAY = 3e-4, 0.05


class RegressionNet(nn.Module):
    position: Tensor  # (M, C)

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.model.cross_attention_dim
        self.num_heads = max(1, width // HEAD_DIM)
        self.backbone = build_backbone(config.model.backbone_name, config.data.image_size)
        grid = self.backbone.grid
        side = min(config.model.downsample_size, grid)
        self.pool = TokenPool(grid, side)
        self.project = nn.Linear(self.backbone.embed_dim, width)
        num_layers = config.model.cross_attention_layers
        self.query, self.key, self.value, self.out = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers)) for _ in range(4)
        )
        hidden = config.model.mlp_hidden_dim
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 4))
        self.register_buffer("position", position_encoding(bin_centers(grid, side), width))

    def forward(self, wholes: Tensor, parts: Tensor) -> PartPose:
        """wholes and parts (P, 3, H, W), one whole image for each part -> P poses."""
        part, whole = self._encode(parts), self._encode(wholes)  # (P, M, C)
        layers = zip(self.query, self.key, self.value, self.out, strict=True)
        for query, key, value, out in layers:
            attended = F.scaled_dot_product_attention(
                self._split_heads(query(part + self.position)),
                self._split_heads(key(whole + self.position)),
                self._split_heads(value(whole)),
            )
            part = part + out(attended.transpose(1, 2).flatten(2))
        output = self.head(part.mean(1))  # (P, 4)
        return PartPose(output[:, :3], output[:, 3:])

    def _encode(self, images: Tensor) -> Tensor:
        return self.project(self.pool(self.backbone(images)[1]))

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """(P, M, C) -> (P, heads, M, C / heads)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def train_regression(
    model: RegressionNet, epochs: Iterable[Iterable[Batch]], num_steps: int, device: torch.device
) -> None:
    """Train on the batches of each epoch, `num_steps` in all."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    with tqdm(desc="regression", total=num_steps, unit="step", leave=False, disable=None) as bar:
        for batches in epochs:
            for batch in batches:
                batch = batch.to(device)
                whole_of_pair = batch.whole_of_part[batch.part_of_pair]
                predicted = model(batch.wholes[whole_of_pair], batch.parts[batch.part_of_pair])
                translation_loss = F.l1_loss(predicted.translation, batch.pose.translation)
                scale_loss = F.l1_loss(predicted.scale, batch.pose.scale)
                optimizer.zero_grad()
                (translation_loss + scale_loss).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
    model.eval()


@torch.inference_mode()
def predict_regression(
    model: RegressionNet, batches: Iterable[Batch], num_samples: int, device: torch.device
) -> PartPose:
    """(num_samples, 3) and (num_samples, 1), on the CPU, in the order of the table's rows."""
    translation, scale = torch.empty(num_samples, 3), torch.empty(num_samples, 1)
    for batch in batches:
        moved = batch.to(device)
        predicted = model(moved.wholes[moved.whole_of_part], moved.parts)
        translation[batch.rows] = predicted.translation[moved.part_of_pair].cpu()
        scale[batch.rows] = predicted.scale[moved.part_of_pair].cpu()
    return PartPose(translation, scale.clamp(min=1e-3))
