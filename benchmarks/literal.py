"""Every pair by itself, with the pipeline's own network: the yardstick of other benchmarks.

For every pair both pictures are read, decoded and encoded, the whole again for each of its parts;
every block of the encoder is checkpointed; an ordinary loader brings one pair after the other.
Weights, answers and gradients are those of the pipeline, to float tolerance.

    $ python benchmarks/throughput.py        # compares the two where they train
    $ python benchmarks/inference.py         # and where they answer
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.config import TrainConfig  # noqa: E402
from partloc.data.images import load_rgb  # noqa: E402
from partloc.data.table import PairTable  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.model.backbone import Kept  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.model.prediction import Prediction  # noqa: E402
from partloc.pose import PartPose  # noqa: E402
from partloc.training.losses import targets_of, training_loss  # noqa: E402

MAX_PIXELS = 64_000_000


class Pairs(Dataset):
    """One item = one pair: whole (3, H, W), part (3, H, W), row of the table."""

    def __init__(self, table: PairTable, preprocessing: Preprocessing) -> None:
        self.table, self.preprocessing = table, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        paths = (self.table.whole_paths[row], self.table.part_paths[row])
        pictures = (load_rgb(self.table.data_dir / path, MAX_PIXELS) for path in paths)
        return *(self.preprocessing(picture) for picture in pictures), row


def literal_loader(
    table: PairTable, preprocessing: Preprocessing, rows: list[int], batch_size: int
) -> DataLoader:
    """The rows in their order, `batch_size` pairs at a time."""
    return DataLoader(Pairs(table, preprocessing), batch_size, sampler=rows)


def answer(
    model: PartLocator,
    wholes: Tensor,
    parts: Tensor,
    guides: PartPose | None = None,
    precision: torch.dtype | None = None,
) -> Prediction:
    """wholes and parts (P, 3, H, W), a whole for each part -> hypotheses for P parts."""
    own = torch.arange(len(parts), device=parts.device)
    tokens = (model.encode(images, precision) for images in (wholes, parts))
    return model.locate(*tokens, own, guides)


def loss_of(
    model: PartLocator,
    table: PairTable,
    batch: tuple[Tensor, Tensor, Tensor],
    config: TrainConfig,
) -> Tensor:
    """The mean loss of (P, 3, H, W), (P, 3, H, W) and the rows (P,) of the table."""
    model.backbone.kept = (Kept.INPUT,) * model.backbone.num_blocks
    device = model.center.device
    wholes, parts = (pictures.to(device) for pictures in batch[:2])
    rows = batch[2].tolist()
    pose, twins = (
        PartPose(*(field.to(device) for field in of))
        for of in (PartPose(table.translation[rows], table.scale[rows]), table.twins(rows))
    )
    # Which of several equal parts the head is guided to is the pipeline's choice: the first.
    pictures = table.pictures[rows].tolist()
    first = [pictures.index(picture) for picture in pictures]
    guides = PartPose(*(field[first] for field in pose)) if model.knows_view else None
    found = answer(model, wholes, parts, guides)
    targets = targets_of(pose, twins, config.twin_aware)
    places = model.place_of(targets) if model.knows_view else None
    return training_loss(found, targets, places, config).loss.mean()
