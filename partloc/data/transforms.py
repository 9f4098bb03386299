"""The one preprocessing of every image, and colour-only augmentation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import AugmentConfig, DataConfig


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLUR = (0.3, 1.5)  # standard deviations of the narrowest and of the widest, pixels
# Luma, and two axes of chroma that hue turns and saturation stretches. Source: NTSC's YIQ, which
# takes a twentieth of the time of HSV.
TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]],
    dtype=torch.float64,
)


@dataclass(frozen=True)
class Preprocessing:
    """What every image goes through before the network, which crops it and resizes the crop to
    image_size; a checkpoint carries it.

    read_size: side that it is read at, pixels; None is image_size.
    """

    image_size: int
    read_size: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.read_size is None:
            object.__setattr__(self, "read_size", self.image_size)

    @classmethod
    def of(cls, config: "DataConfig") -> "Preprocessing":
        return cls(config.image_size, config.read_size)

    def resize(self, image: Image.Image) -> Tensor:
        """An RGB image of any size -> (3, read_size, read_size) uint8."""
        side = (self.read_size, self.read_size)
        resized = image.resize(side, Image.Resampling.BILINEAR, reducing_gap=3.0)
        return tvf.pil_to_tensor(resized)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) uint8, or float in [0, 1] -> float32 as the encoder expects."""
        return tvf.normalize(
            tvf.to_dtype(pixels, torch.float32, scale=True), list(self.mean), list(self.std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalize(self.resize(image))


class Augmentation:
    """Colour only, since any geometry would change the answer.

    Brightness, contrast, saturation, hue and grey are light: shared by a whole and its parts, and
    each pixel for itself, so that what has one colour in both keeps one colour. Blur and noise
    are the camera's and differ from image to image.
    """

    def __init__(self, config: "AugmentConfig") -> None:
        self.config = config

    def __call__(self, images: Tensor, lights: Sequence[int], cameras: Sequence[int]) -> Tensor:
        """uint8 images (I, 3, H, W), on any device, and the seeds of the light and of the camera
        of each -> float images (I, 3, H, W) in [0, 1]."""
        pixels = self._lit(tvf.to_dtype(images, torch.float32, scale=True), lights)
        for image, camera in zip(pixels, cameras, strict=True):
            chance = torch.Generator().manual_seed(camera)
            strikes, width, level = torch.rand(3, generator=chance).tolist()
            if strikes < self.config.blur_probability:
                sigma = BLUR[0] + (BLUR[1] - BLUR[0]) * width
                image.copy_(tvf.gaussian_blur(image, [5, 5], [sigma, sigma]))
            if self.config.noise_std:
                # Another generator, as numbers of a GPU's are of another kind.
                chance = torch.Generator(image.device).manual_seed(camera + 1)
                noise = torch.randn(image.shape, generator=chance, device=image.device)
                image.add_(noise, alpha=self.config.noise_std * level)
        return pixels.clamp_(0, 1)

    def _lit(self, pixels: Tensor, lights: Sequence[int]) -> Tensor:
        drawn = {light: self._light(light) for light in set(lights)}
        linear, gain, offset = zip(*(drawn[light] for light in lights), strict=True)
        linear = torch.stack(linear).to(pixels)
        gain, offset = (
            torch.tensor(each).to(pixels)[:, None, None, None] for each in (gain, offset)
        )
        pixels = (gain * pixels + offset).clamp_(0, 1)
        return (linear @ pixels.flatten(2)).view_as(pixels).clamp_(0, 1)

    def _light(self, seed: int) -> tuple[Tensor, float, float]:
        """What it does to colours, (3, 3), after a gain and an offset."""
        config, chance = self.config, torch.Generator().manual_seed(seed)
        strength = (config.brightness, config.contrast, config.saturation, config.hue)
        steps = (2 * torch.rand(4, generator=chance) - 1) * torch.tensor(strength)
        brightness, contrast, saturation, hue = steps.tolist()
        grey = torch.rand((), generator=chance) < config.gray_probability
        turn = torch.tensor(2 * math.pi * hue, dtype=torch.float64)
        chroma = 0.0 if grey else 1 + saturation
        turned = torch.eye(3, dtype=torch.float64)
        turned[1:, 1:] = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)
        turned[1:] *= chroma
        linear = TO_YIQ.inverse() @ turned @ TO_YIQ
        # Contrast is about a fixed grey.
        return linear.float(), (1 + contrast) * (1 + brightness), -contrast / 2


def jitter_of(chance: Tensor, strength: float) -> Tensor:
    """What `crop.jittered` does to crops, (B, 3): growth, from 0 to `strength`; and moves right and
    down, from -1 to 1, in units of the room won by it. Every second one is left alone, zeros.

    chance: (B, 4), evenly from [0, 1).
    """
    steps = torch.cat([strength * chance[:, :1], 2 * chance[:, 1:3] - 1], 1)
    return steps * (chance[:, 3:] < 0.5)
