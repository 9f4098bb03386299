"""Template matching on features: the part, shrunk to many sizes, is slid over the whole.

Nothing is rotated and the camera is the same, so in the whole a part looks like a scaled, shifted,
partly covered copy of its own image. Two coordinates and the scale are thus a registration.

Shapes: B pairs, S tokens a side, C features, L template sizes, H = L * S * S hypotheses.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.fusion import pooling_matrix

MAX_SIZES = 16


class Match(NamedTuple):
    """What the sliding found.

    log_probability: (B, H) over all hypotheses. place: (B, 3) their mean (right, down, log size),
    the first two in [-1, 1] across the image. features: (B, C) of the whole at the found places.
    """

    log_probability: Tensor
    place: Tensor
    features: Tensor


class TemplateMatch(nn.Module):
    """Masked squared distance between part templates and the whole, softmax over all places.

    With a template t, its mask m and the whole's features w, the distance at a place is
    sum m |t - w|^2 / sum m; its cross terms are correlations, computed by FFT.
    """

    def __init__(self, size: int, width: int, features: int) -> None:
        super().__init__()
        self.size = size
        self.project = nn.Linear(width, features)
        nn.init.orthogonal_(self.project.weight)
        self.mask = nn.Linear(width, 1)
        steps = torch.linspace(0, 1, MAX_SIZES)
        self.sizes = sorted({max(1, round(size**step)) for step in steps.tolist()})
        for i, cells in enumerate(self.sizes):
            self.register_buffer(f"shrink{i}", pooling_matrix(size, cells), persistent=False)
        self.log_sharpness = nn.Parameter(torch.full((len(self.sizes),), 1.0))
        self.size_bias = nn.Parameter(torch.zeros(len(self.sizes)))
        self.register_buffer("places", self._places(), persistent=False)  # (H, 3)

    def _places(self) -> Tensor:
        """(H, 3): right, down, log size of each hypothesis."""
        starts = torch.arange(self.size)
        rows = []
        for cells in self.sizes:
            centre = (starts + (cells % 2) / 2) * (2 / self.size) - 1  # (S,)
            down, right = torch.meshgrid(centre, centre, indexing="ij")
            log_size = torch.full_like(right, cells / self.size).log()
            rows.append(torch.stack([right, down, log_size], -1).flatten(0, 1))
        return torch.cat(rows)

    def forward(self, part: Tensor, whole: Tensor) -> Match:
        """Tokens (B, S * S, width) of both."""
        with torch.autocast(part.device.type, enabled=False):
            return self._forward(part.float(), whole.float())

    def _forward(self, part: Tensor, whole: Tensor) -> Match:
        grid = (self.size, self.size)
        seen = self.project(whole).unflatten(1, grid).permute(0, 3, 1, 2)  # (B, C, S, S)
        shown = self.project(part).unflatten(1, grid).permute(0, 3, 1, 2)
        mask = self.mask(part).sigmoid().unflatten(1, grid).permute(0, 3, 1, 2)  # (B, 1, S, S)
        distance = self._distances(shown, mask, seen)  # (B, L, S, S)
        logits = -distance * self.log_sharpness.exp()[:, None, None]
        logits = logits + self.size_bias[:, None, None]
        log_probability = logits.flatten(1).log_softmax(1)  # (B, H)
        probability = log_probability.exp()
        where = probability.unflatten(1, (len(self.sizes), -1)).sum(1)  # (B, S * S)
        features = torch.einsum("bm,bcm->bc", where, seen.flatten(2))
        return Match(log_probability, probability @ self.places, features)

    def _distances(self, shown: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        """(B, L, S, S) mean squared distance of each template at each place."""
        margin = self.size // 2
        span = self.size + 2 * margin
        padded = F.pad(seen, (margin,) * 4, mode="replicate")
        seen_f = torch.fft.rfft2(padded)  # (B, C, span, .)
        energy_f = torch.fft.rfft2(padded.square().sum(1))  # (B, span, .)
        distances = []
        for i, cells in enumerate(self.sizes):
            shrink = getattr(self, f"shrink{i}")
            template = shrink @ (mask * shown) @ shrink.T  # (B, C, n, n), masked features
            weight = (shrink @ mask @ shrink.T).squeeze(1)  # (B, n, n)
            template_f = torch.fft.rfft2(template, s=(span, span)).conj()
            weight_f = torch.fft.rfft2(weight, s=(span, span)).conj()
            cross = torch.fft.irfft2(
                energy_f * weight_f - 2 * (seen_f * template_f).sum(1), s=(span, span)
            )
            own = template.square().sum(1) / (weight + 1e-6)  # (B, n, n)
            start = margin - cells // 2
            window = cross[:, start : start + self.size, start : start + self.size]
            total = weight.sum((1, 2)) + 1e-6
            distances.append((window + own.sum((1, 2))[:, None, None]) / total[:, None, None])
        return torch.stack(distances, 1)
