"""Loaders of the planned batches: from images, or from the token cache of a frozen encoder."""

from typing import cast

import torch
from torch.utils.data import DataLoader

from partloc.config import Config
from partloc.data.dataset import PairDataset, make_loader
from partloc.data.sampler import PlannedBatchSampler
from partloc.data.transforms import COLOR_CHANGES, Augmentation, Preprocessing
from partloc.training.token_cache import CachedPairDataset, TokenCache


def make_pair_loader(
    batches: PlannedBatchSampler,
    config: Config,
    preprocessing: Preprocessing,
    device: torch.device,
    trains: bool = False,
) -> DataLoader:
    """Make a loader that reads images.

    trains: whether the images are changed at random. A frozen encoder sees each image as the token
        cache does, without changes.
    """
    changes = trains and not config.train.freeze_backbone
    color_changes = COLOR_CHANGES[config.train.augmentation]
    dataset = PairDataset(
        batches.table,
        preprocessing,
        config.data.max_image_pixels,
        Augmentation(color_changes) if changes and any(color_changes) else None,
        config.seed,
        config.train.crop_jitter if changes else 0.0,
    )
    return make_loader(dataset, batches, config.machine.num_workers, device)


def with_token_cache(loader: DataLoader, cache: TokenCache, device: torch.device) -> DataLoader:
    """Make a loader of the same batches that reads the cache, without workers, which would only
    copy memory."""
    dataset = CachedPairDataset(cast(PairDataset, loader.dataset), cache)
    batches = cast(PlannedBatchSampler, loader.batch_sampler)
    return make_loader(dataset, batches, 0, device)
