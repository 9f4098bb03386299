"""Template matching: the part's picture, shrunk to many sizes, is slid over that of the whole.

Nothing is rotated and the camera is the same, so in the whole a part looks like a scaled, shifted,
partly covered copy of its own image. Two coordinates and the scale are thus a registration.

Shapes: B pairs, M tokens of an image, S cells a side, C features, L template sizes,
H = L * S * S hypotheses.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.fusion import pooling_matrix

MAX_SIZES = 12
# A step of Adam moves every weight alike; the few numbers that steer all places need longer ones.
STRIDE = 10.0
# Standard deviations of the window round the best place: right, down, log size.
WINDOW = (0.15, 0.15, 0.35)


class Match(NamedTuple):
    """What the sliding found.

    log_probability: (B, H) over all hypotheses. best, mean: (B, 3), the place of the highest peak,
    averaged over its surroundings, and of all; right and down in [-1, 1] across the image, log
    size. features: (B, C) of the whole at the peak. doubt: (B, 1), entropy in [0, 1].
    """

    log_probability: Tensor
    best: Tensor
    mean: Tensor
    features: Tensor
    doubt: Tensor


class Stem(nn.Module):
    """Local appearance, (B, 3, 4 S, 4 S) -> (B, C, S, S); a patch of the encoder is too coarse.

    No normalisation over the picture: it would tell a part from the same part in the whole. The
    frame is continued by its own colours, so that its edge is no feature.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2),
            nn.GELU(),
            nn.Conv2d(24, 48, 3, stride=2),
            nn.GELU(),
            nn.Conv2d(48, 48, 3),
            nn.GELU(),
            nn.Conv2d(48, features, 1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(F.pad(pictures, (6, 7, 6, 7), mode="replicate"))


class TemplateMatch(nn.Module):
    """Masked squared distance between part templates and the whole, softmax over all places.

    With a template t, its mask m and the whole's features w, the distance at a place is
    sum m |t - w|^2 / sum m; its cross terms are correlations, computed by FFT.

    Features are a stem's beside plain colours, which match from the first step. The encoder's
    tokens, each unfolded into `upsampling`^2 cells, say what belongs to the part. Source of the
    unfolding: sub-pixel convolution, arXiv:1609.05158.
    """

    def __init__(self, tokens: int, width: int, features: int, upsampling: int) -> None:
        super().__init__()
        self.tokens, self.features, self.upsampling = tokens, features, upsampling
        self.size = tokens * upsampling
        self.stem = Stem(features)
        self.color_weight = nn.Parameter(torch.tensor(1.0))
        # What differs from the picture's corners is the part; the tokens may know better.
        self.mask = nn.Linear(width, upsampling**2)
        nn.init.zeros_(self.mask.weight)
        nn.init.zeros_(self.mask.bias)
        self.contrast = nn.Parameter(torch.tensor([4.0, -2.0]))
        steps = torch.linspace(0, 1, MAX_SIZES).tolist()
        self.sizes = sorted({max(1, round(self.size**step)) for step in steps})
        for i, cells in enumerate(self.sizes):
            self.register_buffer(f"shrink{i}", pooling_matrix(self.size, cells), persistent=False)
        self.log_sharpness = nn.Parameter(torch.full((len(self.sizes),), math.log(5) / STRIDE))
        self.size_bias = nn.Parameter(torch.zeros(len(self.sizes)))
        self.register_buffer("places", self._places(), persistent=False)  # (H, 3)
        self.register_buffer("window", torch.tensor(WINDOW), persistent=False)

    def _places(self) -> Tensor:
        """(H, 3): right, down, log size of each hypothesis."""
        rows = []
        for cells in self.sizes:
            centre = (torch.arange(self.size) + (cells % 2) / 2) * (2 / self.size) - 1  # (S,)
            down, right = torch.meshgrid(centre, centre, indexing="ij")
            log_size = torch.full_like(right, cells / self.size).log()
            rows.append(torch.stack([right, down, log_size], -1).flatten(0, 1))
        return torch.cat(rows)

    def picture(self, images: Tensor) -> Tensor:
        """Images of any size, shrunk to (B, 3, 4 S, 4 S)."""
        return F.interpolate(images.float(), (4 * self.size,) * 2, mode="area")

    def cells(self, pictures: Tensor) -> Tensor:
        """(B, 3, 4 n, 4 n) -> (B, C + 3, n, n); three colours count like all features at 1."""
        with torch.autocast(pictures.device.type, enabled=False):
            weight = self.color_weight * math.sqrt(self.features)
            return torch.cat([self.stem(pictures), weight * F.avg_pool2d(pictures, 4)], 1)

    def forward(self, part: Tensor, part_picture: Tensor, seen: Tensor) -> Match:
        """Part: tokens (B, M, width), picture (B, 3, 4 S, 4 S). Whole: cells (B, C + 3, S, S)."""
        with torch.autocast(part.device.type, enabled=False):
            templates = [
                self.cells(F.interpolate(part_picture, (4 * cells,) * 2, mode="area"))
                for cells in self.sizes
            ]
            mask = self._unfold(self.mask(part.float())) + self._contrast(templates[-1])
            return self._slide(templates, mask.sigmoid(), seen)

    def _unfold(self, tokens: Tensor) -> Tensor:
        """(B, M, C * upsampling^2) -> (B, C, S, S)."""
        grid = tokens.unflatten(1, (self.tokens, self.tokens)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(grid, self.upsampling)

    def _slide(self, templates: list[Tensor], mask: Tensor, seen: Tensor) -> Match:
        distance = self._distances(templates, mask, seen)  # (B, L, S, S)
        sharpness = (STRIDE * self.log_sharpness).exp()[:, None, None]
        logits = STRIDE * self.size_bias[:, None, None] - sharpness * distance
        log_probability = logits.flatten(1).log_softmax(1)  # (B, H)
        probability = log_probability.exp()

        peak = self.places[log_probability.argmax(1)]  # (B, 3)
        off = (self.places - peak[:, None]) / self.window  # (B, H, 3)
        near = (log_probability - off.square().sum(-1) / 2).softmax(1)  # (B, H)
        where = near.unflatten(1, (len(self.sizes), -1)).sum(1)  # (B, S * S)
        entropy = -(probability * log_probability).sum(1, keepdim=True)
        return Match(
            log_probability,
            best=near @ self.places,
            mean=probability @ self.places,
            features=torch.einsum("bm,bcm->bc", where, seen.flatten(2)),
            doubt=entropy / math.log(len(self.places)),
        )

    def _contrast(self, shown: Tensor) -> Tensor:
        """(B, 1, S, S): how far a token is from the corners, which seldom show the part."""
        last = self.size - 1
        corners = shown[:, :, ::last, ::last].mean((2, 3), keepdim=True)
        distance = (shown - corners).square().sum(1, keepdim=True)
        gain, threshold = self.contrast
        return gain * distance / (distance.mean((2, 3), keepdim=True) + 1e-6) + threshold

    def _distances(self, templates: list[Tensor], mask: Tensor, seen: Tensor) -> Tensor:
        """(B, L, S, S) mean squared distance of each template at each place, per feature."""
        margin = self.size // 2
        span = (2 * self.size,) * 2
        padded = F.pad(seen, (margin, self.size - margin) * 2, mode="replicate")
        seen_f = torch.fft.rfft2(padded)  # (B, C, span, .)
        energy_f = torch.fft.rfft2(padded.square().sum(1))  # (B, span, .)
        distances = []
        for i, cells in enumerate(self.sizes):
            shrink = getattr(self, f"shrink{i}")
            weight = shrink @ mask @ shrink.T  # (B, 1, n, n)
            template = templates[i]  # (B, C, n, n)
            template_f = torch.fft.rfft2(weight * template, s=span).conj()
            weight_f = torch.fft.rfft2(weight.squeeze(1), s=span).conj()
            cross = energy_f * weight_f - 2 * (seen_f * template_f).sum(1)
            own = (weight * template.square()).sum((1, 2, 3))  # (B,)
            start = margin - cells // 2
            window = slice(start, start + self.size)
            total = torch.fft.irfft2(cross, s=span)[:, window, window] + own[:, None, None]
            distances.append(total / (weight.sum((1, 2, 3)) + 1e-6)[:, None, None])
        return torch.stack(distances, 1) / self.features
