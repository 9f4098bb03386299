"""Preprocessing of every image, and colour augmentation for training.

Shapes: I images; B crops; H W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

if TYPE_CHECKING:  # any object with these fields is accepted, also where pydantic is not installed
    from partloc.config import DataConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLUR_KERNEL_PX = 5
BLUR_SIGMA_RANGE = (0.3, 1.5)  # pixels
JITTERED_FRACTION = 0.5  # of the crops
# RGB to YIQ (NTSC): luma and two chroma axes. Hue rotates the chroma and saturation scales it.
# HSV would take twenty times as long.
RGB_TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]],
    dtype=torch.float64,
)


@dataclass(frozen=True)
class Preprocessing:
    """Resize and normalise an image; saved with the model.

    The model crops the image and resizes the crop to `image_size`.
    read_size: side of the image before the crop, pixels; None means image_size.
    """

    image_size: int
    read_size: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.read_size is None:
            object.__setattr__(self, "read_size", self.image_size)

    @classmethod
    def from_config(cls, config: "DataConfig") -> "Preprocessing":
        return cls(config.image_size, config.read_size)

    def resize(self, image: Image.Image) -> Tensor:
        """Resize an RGB image of any size to (3, read_size, read_size) uint8."""
        side = self.read_size or self.image_size
        resized = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return tvf.pil_to_tensor(resized)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Convert (..., 3, H, W), uint8 or float in [0, 1], to the encoder's float32 input."""
        return tvf.normalize(
            tvf.to_dtype(pixels, torch.float32, scale=True), list(self.mean), list(self.std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalize(self.resize(image))


class ColorChanges(NamedTuple):
    """The strengths of an augmentation.

    color_jitter: largest relative change of brightness, contrast and saturation. hue: largest
    rotation, turns: 0.5 is the opposite colour. gray_probability: of a whole with its parts.
    blur_probability: of an image. noise_std: largest standard deviation, where white is 1.
    """

    color_jitter: float = 0.0
    hue: float = 0.0
    gray_probability: float = 0.0
    blur_probability: float = 0.0
    noise_std: float = 0.0


# By the value of train.augmentation.
COLOR_CHANGES = {
    "none": ColorChanges(),
    "light": ColorChanges(color_jitter=0.1, noise_std=0.01),
    "strong": ColorChanges(0.3, 0.05, 0.1, 0.1, 0.02),
}


class Augmentation:
    """Random colour changes. A geometric change would change the target pose.

    Brightness, contrast, saturation, hue and greyscale depend on the colour seed, which a whole and
    its parts share. They act on each pixel separately, so equal colours remain equal. Blur and
    noise depend on the noise seed, which differs between images.
    """

    def __init__(self, changes: ColorChanges) -> None:
        self.changes = changes

    def __call__(
        self, images: Tensor, color_seeds: Sequence[int], noise_seeds: Sequence[int]
    ) -> Tensor:
        """Augment uint8 images (I, 3, H, W) on any device; one seed of each kind per image.

        Returns: float images (I, 3, H, W) in [0, 1].
        """
        pixels = self._change_colors(tvf.to_dtype(images, torch.float32, scale=True), color_seeds)
        for image, seed in zip(pixels, noise_seeds, strict=True):
            self._blur_and_add_noise(image, seed)
        return pixels.clamp_(0, 1)

    def _change_colors(self, pixels: Tensor, color_seeds: Sequence[int]) -> Tensor:
        transforms = {seed: self._sample_color_transform(seed) for seed in set(color_seeds)}
        matrices, gains, offsets = zip(*(transforms[seed] for seed in color_seeds), strict=True)
        matrix = torch.stack(matrices).to(pixels)  # (I, 3, 3)
        gain, offset = (
            torch.tensor(values).to(pixels)[:, None, None, None] for values in (gains, offsets)
        )
        pixels = (gain * pixels + offset).clamp_(0, 1)
        return (matrix @ pixels.flatten(2)).view_as(pixels).clamp_(0, 1)

    def _sample_color_transform(self, seed: int) -> tuple[Tensor, float, float]:
        """Return matrix (3, 3), gain and offset: color -> matrix @ clamp(gain * color + offset)."""
        changes, rng = self.changes, torch.Generator().manual_seed(seed)
        strengths = torch.tensor((*3 * (changes.color_jitter,), changes.hue))
        uniform = 2 * torch.rand(4, generator=rng) - 1
        brightness, contrast, saturation, hue = (uniform * strengths).tolist()
        is_gray = torch.rand((), generator=rng) < changes.gray_probability
        angle = torch.tensor(2 * math.pi * hue, dtype=torch.float64)
        change = torch.eye(3, dtype=torch.float64)  # of a colour in YIQ
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        change[1:, 1:] = rotation
        change[1:] *= 0.0 if is_gray else 1 + saturation
        matrix = RGB_TO_YIQ.inverse() @ change @ RGB_TO_YIQ
        # The contrast is changed around a fixed mid-grey.
        return matrix.float(), (1 + contrast) * (1 + brightness), -contrast / 2

    def _blur_and_add_noise(self, image: Tensor, seed: int) -> None:
        """Change a float image (3, H, W) in place."""
        rng = torch.Generator().manual_seed(seed)
        blur, blur_width, noise_level = torch.rand(3, generator=rng).tolist()
        if blur < self.changes.blur_probability:
            low, high = BLUR_SIGMA_RANGE
            sigma = low + (high - low) * blur_width
            image.copy_(tvf.gaussian_blur(image, [BLUR_KERNEL_PX] * 2, [sigma, sigma]))
        if self.changes.noise_std:
            # A separate generator, because the noise is generated on the image's device.
            rng = torch.Generator(image.device).manual_seed(seed + 1)
            noise = torch.randn(image.shape, generator=rng, device=image.device)
            image.add_(noise, alpha=self.changes.noise_std * noise_level)


def crop_jitter_from_uniform(uniform: Tensor, strength: float) -> Tensor:
    """Convert random numbers to the argument of `crop.jitter_crops`, (B, 3).

    The columns are the relative enlargement of a crop, from 0 to `strength`, and its shifts right
    and down, from -1 to 1 of the margin gained. Half of the crops get zeros, i.e. no change.
    Args:
        uniform: (B, 4), uniformly distributed in [0, 1).
    """
    jitter = torch.cat([strength * uniform[:, :1], 2 * uniform[:, 1:3] - 1], 1)
    return jitter * (uniform[:, 3:] < JITTERED_FRACTION)
