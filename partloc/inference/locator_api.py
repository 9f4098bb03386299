"""The Python interface: from images in any form to poses in plain numbers.

>>> from partloc import Locator
>>> locator = Locator.from_pretrained()
>>> leg = locator.locate("chair-whole.png", "chair-leg.png")
>>> leg.translation, leg.scale, leg.confidence
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast, overload

from PIL import Image

from partloc.data.image_input import EXPECTED, ImageInput, is_image_input, read_image_input
from partloc.data.images import DEFAULT_MAX_PIXELS, ImageError
from partloc.inference.checkpoint import find_pretrained
from partloc.inference.estimate import PoseEstimate
from partloc.inference.predictor import Predictor
from partloc.model.camera import PinholeCamera


class Locator:
    """Locates parts in a whole; the command `infer` uses it, too.

    Args:
        checkpoint: a model file; None for the weights that come with the package.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        max_pixels: limit for an image, width times height.
        camera: (azimuth, elevation, field of view) in degrees of the camera that took the images,
            see `PinholeCamera.from_view`; translations are then in a right-handed frame with z
            upward. None for the camera of the model file and the frame of its labels.
    Raises: FileNotFoundError or CheckpointError for the model file; ValueError for the device or
        the camera.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        camera: tuple[float, float, float] | None = None,
    ) -> None:
        self.checkpoint = find_pretrained(checkpoint)
        self.predictor = Predictor(self.checkpoint, device, max_pixels)
        if camera is not None:
            self.predictor.use_camera(*camera)

    @property
    def camera(self) -> PinholeCamera | None:
        """The camera in use, None if it is not known."""
        return self.predictor.model.pinhole_camera

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str] | None = None,
        device: str = "auto",
        camera: tuple[float, float, float] | None = None,
    ) -> "Locator":
        """A locator with shipped weights, by default `dinov2_vitt14`, or those of a model file."""
        return cls(path_or_name, device, camera=camera)

    @overload
    def locate(  # type: ignore[overload-overlap]  # a string is one path, not an iterable
        self, whole: ImageInput, parts: ImageInput, *, distinct: bool = True
    ) -> PoseEstimate: ...

    @overload
    def locate(
        self, whole: ImageInput, parts: Iterable[ImageInput], *, distinct: bool = True
    ) -> list[PoseEstimate]: ...

    def locate(
        self,
        whole: ImageInput,
        parts: ImageInput | Iterable[ImageInput],
        *,
        distinct: bool = True,
    ) -> PoseEstimate | list[PoseEstimate]:
        """Predict the poses of the parts of one whole.

        An image is a path, a Pillow image, an array of uint8, (H, W), (H, W, 3) or (H, W, 4), or a
        file opened in mode "rb". Of a generator, about `image_loader.IMAGES_AHEAD` images are in
        memory at a time.

        Args:
            parts: one image, or an iterable of images.
            distinct: give parts that look identical distinct positions; otherwise each part gets
                the most probable one, whatever the other parts are.
        Returns: one estimate for one image, a list in the order of the parts for an iterable.
        Raises: ImageError for an image that cannot be decoded; TypeError or ValueError for an
            object that is no image. The message names the image.
        """
        if is_image_input(parts):
            return self._locate(whole, [parts], distinct)[0]
        if isinstance(parts, bytes | dict) or not isinstance(parts, Iterable):
            raise TypeError(
                f"parts: expected {EXPECTED}, or an iterable of these, found {type(parts).__name__}"
            )
        return self._locate(whole, cast(Iterable[ImageInput], parts), distinct)

    def _locate(
        self, whole: ImageInput, parts: Iterable[ImageInput], distinct: bool
    ) -> list[PoseEstimate]:
        max_pixels = self.predictor.max_pixels

        def read_parts() -> Iterator[Path | Image.Image]:
            for number, part in enumerate(parts, 1):
                yield read_image_input(part, f"part {number}", max_pixels)

        estimates = []
        image = read_image_input(whole, "whole", max_pixels)
        for result in self.predictor.predict(image, read_parts(), distinct):
            if isinstance(result, ImageError):
                raise result
            estimates.append(result.to_estimate())
        return estimates
