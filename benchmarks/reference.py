"""Reference implementation that processes every pair by itself, with the pipeline's own network.

Both images of every pair are read, decoded and encoded, so the whole is encoded again for each of
its parts. Every block of the encoder is recomputed in the backward pass. Weights, predictions and
gradients equal the pipeline's, up to float tolerance. `throughput` compares the two in training,
`inference` in prediction.

Shapes: P pairs of a batch; H W pixels.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from partloc.config import TrainConfig
from partloc.data.background import load_image
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.model.backbone import ActivationPolicy
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import PartPose
from partloc.training.losses import loss_targets, training_loss

MAX_IMAGE_PIXELS = 64_000_000


class ReferenceDataset(Dataset):
    """One item is one pair: whole (3, H, W), part (3, H, W), row of the table."""

    def __init__(self, table: PairTable, preprocessing: Preprocessing) -> None:
        self.table, self.preprocessing = table, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        return self._load(self.table.whole_paths[row]), self._load(self.table.part_paths[row]), row

    def _load(self, path: str) -> Tensor:
        return self.preprocessing(load_image(self.table.data_dir / path, MAX_IMAGE_PIXELS))


def reference_loader(
    table: PairTable, preprocessing: Preprocessing, rows: list[int], batch_size: int
) -> DataLoader:
    """Load the given rows in their order, `batch_size` pairs at a time."""
    return DataLoader(ReferenceDataset(table, preprocessing), batch_size, sampler=rows)


def reference_predict(
    model: PartLocator,
    wholes: Tensor,
    parts: Tensor,
    gt_pose: PartPose | None = None,
    precision: torch.dtype | None = None,
) -> Prediction:
    """Predict P parts from wholes and parts (P, 3, H, W), one whole image for each part."""
    whole_of_part = torch.arange(len(parts), device=parts.device)
    encoded_wholes, encoded_parts = (model.encode(images, precision) for images in (wholes, parts))
    return model.predict(encoded_wholes, encoded_parts, whole_of_part, gt_pose)


def reference_loss(
    model: PartLocator,
    table: PairTable,
    batch: tuple[Tensor, Tensor, Tensor],
    config: TrainConfig,
) -> Tensor:
    """Mean training loss of a batch of `reference_loader`."""
    backbone = model.encoder.backbone
    backbone.activation_policies = (ActivationPolicy.INPUT,) * backbone.num_blocks
    device = model.device
    wholes, parts = (images.to(device) for images in batch[:2])
    rows = batch[2].tolist()
    pose, twins = (
        PartPose(*(field.to(device) for field in poses))
        for poses in (PartPose(table.translation[rows], table.scale[rows]), table.twin_poses(rows))
    )
    gt_pose = pose if model.has_camera else None
    prediction = reference_predict(model, wholes, parts, gt_pose)
    targets = loss_targets(pose, twins, config.twin_aware)
    positions = model.project(targets) if model.has_camera else None
    return training_loss(prediction, targets, positions, config).loss.mean()
