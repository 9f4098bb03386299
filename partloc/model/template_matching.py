"""Template matching: the part's picture, shrunk to many sizes, is slid over that of the whole.

Nothing is rotated and the camera is the same, so in the whole a part looks like a scaled, shifted,
partly covered copy of its own image. Two coordinates and the scale are thus a registration.

Shapes: W wholes, B pairs, S cells a side of the whole, n of a template, L template sizes,
H = L * S * S places, K proposals.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.attention import pooling_matrix
from partloc.model.crop import foreground

PIXELS = 4  # of a picture to a cell, a side
SIZES, SMALLEST = 12, 3  # of the templates: how many, and the first one's cells a side
# Squared steps of colour from one pixel to the next; weaker ones count as noise, stronger as edge.
NOISE = 3e-3
# How evidence starts: its gain, the power of the area, the tolerance, the weight of shape. They
# are the likeliest ones on parts of the demo, before anything is learned.
EVIDENCE = (13.0, 0.21, 5.8, 4.7)
# A step of Adam moves every weight alike; the few numbers that steer all places need longer ones.
STRIDE = 10.0
# Channels of the network that weighs each place in its context, and the evidence, below the
# highest, at which it stops to look.
WIDTH, SCOPE = 48, 8.0
# Standard deviations of the window round a peak: right, down, log size.
WINDOW = (0.25, 0.25, 0.35)


class Match(NamedTuple):
    """What the sliding found.

    log_probability: (B, H) of every place. proposals: (B, K, 3), the highest peaks, each averaged
    over its surroundings; right and down in [-1, 1] across the image, log size. log_share:
    (B, K), the probability round each of them. No gradient flows through the proposals.
    """

    log_probability: Tensor
    proposals: Tensor
    log_share: Tensor


def edges(pictures: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 3, h, w): is there an edge, and the cosine and sine of twice its angle.

    Blind to how strong an edge is and which side is brighter: next to another part it is another
    contrast, but the same line.
    Source: the structure tensor (Bigun and Granlund, 1987) of the colours, over its own size.
    """
    framed = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    right = (framed[:, :, 1:-1, 2:] - framed[:, :, 1:-1, :-2]) / 2
    down = (framed[:, :, 2:, 1:-1] - framed[:, :, :-2, 1:-1]) / 2
    xx, yy = right.square().sum(1), down.square().sum(1)  # (B, h, w)
    xy = (right * down).sum(1)
    return torch.stack([xx + yy, xx - yy, 2 * xy], 1) / (xx + yy + NOISE)[:, None]


class TemplateMatch(nn.Module):
    """Distance of appearance between part templates and the whole, softmax over all places.

    With a template t, its mask m and the whole's appearance w, a distance at a place is
    D = sum m |t - w|^2 / sum m; its cross terms are correlations, computed by FFT. A place's
    evidence is gain * area^power * (tolerance - sqrt(D of colour) - weight * D of edges) + bias of
    the size: a small template fits in many places by chance, so a large one that fits as well says
    more. From the first step it finds places without having learned anything; a small
    convolution over all distances then learns to add what a place's context says.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        smallest = min(SMALLEST, size)
        steps = torch.linspace(0, 1, SIZES).tolist()
        self.sizes = sorted({round(smallest * (size / smallest) ** step) for step in steps})
        for i, cells in enumerate(self.sizes):
            shrink = pooling_matrix(PIXELS * size, PIXELS * cells)
            self.register_buffer(f"shrink{i}", shrink, persistent=False)
        self.evidence = nn.Parameter(torch.tensor(EVIDENCE) / STRIDE)
        self.size_bias = nn.Parameter(torch.zeros(len(self.sizes)))
        count = len(self.sizes)
        layers: list[nn.Module] = []
        channels = 3 * count + 3
        for reach in (1, 2, 4):
            layers += [
                nn.Conv2d(channels, WIDTH, 3, padding=reach, dilation=reach),
                nn.GroupNorm(8, WIDTH),
                nn.GELU(),
            ]
            channels = WIDTH
        self.context = nn.Sequential(*layers, nn.Conv2d(WIDTH, count, 1))
        nn.init.zeros_(self.context[-1].weight)
        nn.init.zeros_(self.context[-1].bias)
        self.register_buffer("places", self._places(), persistent=False)  # (H, 3)
        self.register_buffer("window", torch.tensor(WINDOW), persistent=False)

    def _places(self) -> Tensor:
        """(H, 3): right, down, log size of every place."""
        rows = []
        for cells in self.sizes:
            centre = (torch.arange(self.size) + (cells % 2) / 2) * (2 / self.size) - 1  # (S,)
            down, right = torch.meshgrid(centre, centre, indexing="ij")
            log_size = torch.full_like(right, cells / self.size).log()
            rows.append(torch.stack([right, down, log_size], -1).flatten(0, 1))
        return torch.cat(rows)

    def forward(
        self, wholes: Tensor, parts: Tensor, whole_of_part: Tensor, proposals: int
    ) -> Match:
        """Pictures of W wholes and B parts, (., 3, 4 S, 4 S); whole_of_part (B,)."""
        colour, edge, area = self._distances(wholes, parts, whole_of_part)
        gain, power, tolerance, weight = STRIDE * self.evidence
        strength = (gain * area**power)[..., None, None]  # (B, L, 1, 1)
        evidence = strength * (tolerance - (colour + 1e-3).sqrt() - weight * edge)
        evidence = evidence + STRIDE * self.size_bias[:, None, None]
        evidence = evidence + self._second_thoughts(
            colour, edge, evidence.detach(), F.avg_pool2d(wholes, PIXELS)[whole_of_part]
        )
        log_probability = evidence.flatten(1).log_softmax(1)  # (B, H)
        return Match(log_probability, *self._peaks(log_probability, proposals))

    def _second_thoughts(self, colour: Tensor, edge: Tensor, first: Tensor, seen: Tensor) -> Tensor:
        """(B, L, S, S) to add to the first evidence: what a place's neighbours, the other sizes
        there, and the picture itself say of it."""
        first = (first - first.amax((1, 2, 3), keepdim=True)).clamp(min=-SCOPE) / (SCOPE / 2)
        volumes = [(colour + 1e-3).sqrt(), edge, first, seen]
        return SCOPE / 2 * self.context(torch.cat(volumes, 1))

    @torch.no_grad()
    def _distances(
        self, wholes: Tensor, parts: Tensor, whole_of_part: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of colour and of edges, (B, L, S, S) each; and the templates' areas, (B, L), 0..1."""
        margin = self.size // 2
        cells = F.avg_pool2d(torch.cat([wholes, edges(wholes)], 1), PIXELS)  # (W, 6, S, S)
        padded = F.pad(cells, (margin, self.size - margin) * 2, mode="replicate")
        seen_colour, seen_edge = (
            tuple(spectrum[whole_of_part] for spectrum in _spectra(half))
            for half in padded.chunk(2, 1)
        )
        mask = foreground(parts)  # (B, 1, 4 S, 4 S)
        stack = torch.cat([mask, parts * mask, parts], 1)  # (B, 7, 4 S, 4 S)
        found = []
        for i, side in enumerate(self.sizes):
            shrink = getattr(self, f"shrink{i}")
            fine, masked, seen = (shrink @ stack @ shrink.T).split([1, 3, 3], 1)  # 4 n a side
            inside = F.avg_pool2d(fine, PIXELS)  # (B, 1, n, n)
            # Without the ground that shines through at the part's rim.
            colour = F.avg_pool2d(masked, PIXELS) / (inside + 1e-4)
            # The rim is where the edges are, on both sides of it.
            rim = F.avg_pool2d(_widened(fine), PIXELS)
            edge = F.avg_pool2d(edges(seen), PIXELS)
            found.append(
                (
                    _distance(colour, inside, seen_colour, side),
                    _distance(edge, rim, seen_edge, side),
                    inside.sum((1, 2, 3)) / self.size**2 + 1e-6,
                )
            )
        return tuple(torch.stack(column, 1) for column in zip(*found, strict=True))

    def _peaks(self, log_probability: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The highest places (B, K, 3), none within another's window, and their shares (B, K)."""
        left, places, shares = log_probability, [], []
        for _ in range(count):
            peak = self.places[left.argmax(1)]  # (B, 3)
            off = ((self.places - peak[:, None]) / self.window).square().sum(-1)  # (B, H)
            near = left - off / 2
            places.append(near.detach().softmax(1) @ self.places)
            shares.append(near.logsumexp(1))
            left = left.masked_fill(off < 1, -1e4)
        return torch.stack(places, 1), torch.stack(shares, 1)


def _widened(mask: Tensor) -> Tensor:
    """Two pixels more on every side; two narrow passes take half the time of a square one."""
    return F.max_pool2d(F.max_pool2d(mask, (5, 1), 1, (2, 0)), (1, 5), 1, (0, 2))


def _spectra(padded: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, 2 S, 2 S) -> Fourier transforms of itself and of its squared length."""
    return torch.fft.rfft2(padded), torch.fft.rfft2(padded.square().sum(1))


def _distance(template: Tensor, mask: Tensor, spectra: tuple[Tensor, Tensor], cells: int) -> Tensor:
    """(B, S, S) mean squared distance; template (B, C, n, n), mask (B, 1, n, n)."""
    seen_f, energy_f = spectra
    span = (seen_f.shape[-2],) * 2
    size = span[0] // 2
    template_f = torch.fft.rfft2(mask * template, s=span).conj()
    mask_f = torch.fft.rfft2(mask.squeeze(1), s=span).conj()
    cross = torch.fft.irfft2(energy_f * mask_f - 2 * (seen_f * template_f).sum(1), s=span)
    start = size // 2 - cells // 2
    window = slice(start, start + size)
    own = (mask * template.square()).sum((1, 2, 3))  # (B,)
    total = cross[:, window, window] + own[:, None, None]
    return total.clamp(min=0) / (mask.sum((1, 2, 3)) + 1e-3)[:, None, None]
