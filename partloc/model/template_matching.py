"""Template matching: finds positions and sizes at which the part's image fits into the whole's.

Parts are not rotated and the camera is the same, so the whole shows a scaled, shifted, partly
occluded copy of the part's image. Two coordinates and the scale are thus an image registration.

Shapes: W wholes, B pairs, S cells per side of the whole, n cells per side of a template, L template
sizes, H = L * S * S positions, K proposals, F feature channels, T tokens per side.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.attention import pooling_matrix
from partloc.model.crop import foreground, resizing_matrix

CELL_PX = 4  # pixels per side of a cell
NUM_TEMPLATE_SIZES, MIN_TEMPLATE_CELLS = 12, 3
# Squared colour steps between neighbouring pixels: weaker ones are noise, stronger ones edges.
EDGE_NOISE = 3e-3
# Initial gain, exponent of the area, tolerance and weight of the edges: the most likely values on
# parts of the demo data set.
INITIAL_EVIDENCE = (13.0, 0.21, 5.8, 4.7)
# Adam moves every weight by similar steps; the few numbers that act on all positions need larger
# ones.
STEP_SCALE = 10.0
NUM_DISTANCES = 3  # colour, edges, features
CONTEXT_WIDTH = 48  # channels of the context network
CONTEXT_RANGE = 8.0  # evidence further below the maximum is clipped for the context network
# Standard deviation of the window around a peak: right and down, in half sides of the part, within
# limits in those of the whole; log size.
WINDOW_STD, WINDOW_LIMITS, WINDOW_LOG_SIZE_STD = 0.3, (0.04, 0.25), 0.35


class MatchResult(NamedTuple):
    """The result of template matching.

    log_probability: (B, H) of every position. proposals: (B, K, 3), the highest peaks, each
    averaged over its window: right and down in [-1, 1] across the image, log size. log_weight:
    (B, K), the log of the probability in each window. No gradient flows through the proposals.
    """

    log_probability: Tensor
    proposals: Tensor
    log_weight: Tensor


class Template(NamedTuple):
    """B parts at one size: color (B, 3, n, n) and edge (B, 3, n, n), and their weights coverage
    and rim, (B, 1, n, n) each."""

    color: Tensor
    coverage: Tensor
    edge: Tensor
    rim: Tensor


def edges(images: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 3, h, w): edge strength, and cosine and sine of twice the edge's angle.

    Independent of the contrast of an edge and of which side is brighter: next to another part the
    contrast differs, but the line is the same.
    Source: the structure tensor (Bigun and Granlund, 1987) of the colours, normalised.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    xx, yy = right.square().sum(1), down.square().sum(1)  # (B, h, w)
    xy = (right * down).sum(1)
    return torch.stack([xx + yy, xx - yy, 2 * xy], 1) / (xx + yy + EDGE_NOISE)[:, None]


class TemplateMatching(nn.Module):
    """Masked distance between part templates and the whole, and a softmax over all positions.

    With a template t, its mask m and the whole's appearance w, the distance at a position is
    D = sum m |t - w|^2 / sum m; its cross terms are correlations, computed by FFT. The evidence of
    a position is gain * area^exponent * (tolerance - sqrt(D of colour) - weight * D of edges -
    weight * D of features) + bias of the size: a small template fits in many positions by chance,
    so a large one that fits as well is stronger evidence. Features are the encoder's; their weight
    starts at zero. This finds positions without any training; a small convolutional network over
    all distances learns to add context.
    Source: features of a vision transformer as templates, FoundPose (arXiv:2311.18809).
    """

    positions: Tensor
    whole_resize: Tensor

    def __init__(self, size: int, tokens_per_side: int) -> None:
        """size: S. tokens_per_side: T."""
        super().__init__()
        self.size = size
        smallest = min(MIN_TEMPLATE_CELLS, size)
        steps = torch.linspace(0, 1, NUM_TEMPLATE_SIZES).tolist()
        self.sizes = sorted({round(smallest * (size / smallest) ** step) for step in steps})
        for i, cells in enumerate(self.sizes):
            shrink = pooling_matrix(CELL_PX * size, CELL_PX * cells)
            self.register_buffer(f"shrink{i}", shrink, persistent=False)
            resize = resizing_matrix(tokens_per_side, cells)
            self.register_buffer(f"resize{i}", resize, persistent=False)
        whole_resize = resizing_matrix(tokens_per_side, size)
        self.register_buffer("whole_resize", whole_resize, persistent=False)
        self.evidence = nn.Parameter(torch.tensor(INITIAL_EVIDENCE) / STEP_SCALE)
        self.feature_weight = nn.Parameter(torch.zeros(()))
        self.size_bias = nn.Parameter(torch.zeros(len(self.sizes)))
        self.context = _context_network(len(self.sizes))
        self.register_buffer("positions", self._positions(), persistent=False)  # (H, 3)

    def _positions(self) -> Tensor:
        """(H, 3): right, down, log size of every position."""
        rows = []
        for cells in self.sizes:
            center = (torch.arange(self.size) + (cells % 2) / 2) * (2 / self.size) - 1  # (S,)
            down, right = torch.meshgrid(center, center, indexing="ij")
            log_size = torch.full_like(right, cells / self.size).log()
            rows.append(torch.stack([right, down, log_size], -1).flatten(0, 1))
        return torch.cat(rows)

    def forward(
        self,
        wholes: Tensor,
        parts: Tensor,
        whole_features: Tensor,
        part_features: Tensor,
        whole_of_part: Tensor,
        num_proposals: int,
    ) -> MatchResult:
        """Images of W wholes and B parts, (., 3, 4 S, 4 S), and features, (., F, T, T);
        whole_of_part (B,)."""
        templates = self._templates(parts)
        color, edge = self._image_distances(wholes, templates, whole_of_part)
        feature = self._feature_distances(whole_features, part_features, templates, whole_of_part)
        area = torch.stack([t.coverage.sum((1, 2, 3)) for t in templates], 1) / self.size**2 + 1e-6
        gain, exponent, tolerance, weight = STEP_SCALE * self.evidence
        strength = (gain * area**exponent)[..., None, None]  # (B, L, 1, 1)
        distance = (
            (color + 1e-3).sqrt() + weight * edge + STEP_SCALE * self.feature_weight * feature
        )
        evidence = strength * (tolerance - distance) + STEP_SCALE * self.size_bias[:, None, None]
        image = F.avg_pool2d(wholes, CELL_PX)[whole_of_part]
        volumes = (color + 1e-3).sqrt(), edge, feature
        evidence = evidence + self._context_evidence(volumes, evidence.detach(), image)
        log_probability = evidence.flatten(1).log_softmax(1)  # (B, H)
        return MatchResult(log_probability, *self._peaks(log_probability, num_proposals))

    def _context_evidence(
        self, distances: tuple[Tensor, ...], evidence: Tensor, image: Tensor
    ) -> Tensor:
        """(B, L, S, S) to add to the evidence, from neighbouring positions and sizes."""
        evidence = evidence - evidence.amax((1, 2, 3), keepdim=True)
        evidence = evidence.clamp(min=-CONTEXT_RANGE) / (CONTEXT_RANGE / 2)
        return CONTEXT_RANGE / 2 * self.context(torch.cat([*distances, evidence, image], 1))

    @torch.no_grad()
    def _templates(self, parts: Tensor) -> list[Template]:
        """One for each size, of B parts (B, 3, 4 S, 4 S)."""
        mask = foreground(parts)  # (B, 1, 4 S, 4 S)
        stack = torch.cat([mask, parts * mask, parts], 1)  # (B, 7, 4 S, 4 S)
        templates = []
        for i in range(len(self.sizes)):
            shrink = getattr(self, f"shrink{i}")
            fine, masked, plain = (shrink @ stack @ shrink.T).split([1, 3, 3], 1)  # 4 n per side
            coverage = F.avg_pool2d(fine, CELL_PX)  # (B, 1, n, n)
            # Without the background that shows through at the part's rim.
            color = F.avg_pool2d(masked, CELL_PX) / (coverage + 1e-4)
            # Edges lie on both sides of the rim.
            rim = F.avg_pool2d(_dilate(fine), CELL_PX)
            templates.append(Template(color, coverage, F.avg_pool2d(edges(plain), CELL_PX), rim))
        return templates

    @torch.no_grad()
    def _image_distances(
        self, wholes: Tensor, templates: list[Template], whole_of_part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Colour and edge distances, (B, L, S, S) each."""
        cells = F.avg_pool2d(torch.cat([wholes, edges(wholes)], 1), CELL_PX)  # (W, 6, S, S)
        color_spectra, edge_spectra = (
            self._spectra(half, whole_of_part) for half in cells.chunk(2, 1)
        )
        color = [self._masked_distance(t.color, t.coverage, *color_spectra) for t in templates]
        edge = [self._masked_distance(t.edge, t.rim, *edge_spectra) for t in templates]
        return torch.stack(color, 1), torch.stack(edge, 1)

    def _feature_distances(
        self, wholes: Tensor, parts: Tensor, templates: list[Template], whole_of_part: Tensor
    ) -> Tensor:
        """(B, L, S, S), per channel; wholes (W, F, T, T), parts (B, F, T, T)."""
        cells = self.whole_resize @ wholes @ self.whole_resize.T  # (W, F, S, S)
        spectra = self._spectra(cells, whole_of_part)
        distances = []
        for i, template in enumerate(templates):
            resize = getattr(self, f"resize{i}")
            distances.append(
                self._masked_distance(resize @ parts @ resize.T, template.coverage, *spectra)
            )
        return torch.stack(distances, 1) / parts.shape[1]

    def _spectra(self, cells: Tensor, whole_of_part: Tensor) -> tuple[Tensor, Tensor]:
        """(W, C, S, S) -> Fourier transforms of the cells (B, C, 2 S, S + 1), continued beyond
        their border, and of their squared length (B, 2 S, S + 1)."""
        margin = self.size // 2
        padded = F.pad(cells, (margin, self.size - margin) * 2, mode="replicate")
        energy = torch.fft.rfft2(padded.square().sum(1))
        return torch.fft.rfft2(padded)[whole_of_part], energy[whole_of_part]

    @staticmethod
    def _masked_distance(
        template: Tensor, mask: Tensor, image_f: Tensor, energy_f: Tensor
    ) -> Tensor:
        """(B, S, S) mean squared distance; template (B, C, n, n), mask (B, 1, n, n), and what
        `_spectra` returns."""
        padded_size = (image_f.shape[-2],) * 2
        size, cells = padded_size[0] // 2, template.shape[-1]
        template_f = torch.fft.rfft2(mask * template, s=padded_size).conj()
        mask_f = torch.fft.rfft2(mask.squeeze(1), s=padded_size).conj()
        cross_f = energy_f * mask_f - 2 * (image_f * template_f).sum(1)
        cross = torch.fft.irfft2(cross_f, s=padded_size)
        start = size // 2 - cells // 2
        window = slice(start, start + size)
        own = (mask * template.square()).sum((1, 2, 3))  # (B,)
        total = cross[:, window, window] + own[:, None, None]
        return total.clamp(min=0) / (mask.sum((1, 2, 3)) + 1e-3)[:, None, None]

    def _peaks(self, log_probability: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The highest positions (B, K, 3), none within another's window, and their log weights."""
        remaining, positions, log_weights = log_probability, [], []
        for _ in range(count):
            peak = self.positions[remaining.argmax(1)][:, None]  # (B, 1, 3)
            distance = ((self.positions - peak) / _window_std(peak)).square().sum(-1)  # (B, H)
            windowed = remaining - distance / 2
            positions.append(windowed.detach().softmax(1) @ self.positions)
            log_weights.append(windowed.logsumexp(1))
            remaining = remaining.masked_fill(distance < 1, -1e4)
        return torch.stack(positions, 1), torch.stack(log_weights, 1)


def _window_std(peak: Tensor) -> Tensor:
    """(..., 3) -> (..., 3). A window as wide for small parts as for large ones would hide the true
    position of a small part beside a better-looking one, and blur the position that it averages."""
    across = (WINDOW_STD * peak[..., 2:].exp()).clamp(*WINDOW_LIMITS)
    return torch.cat([across, across, torch.full_like(across, WINDOW_LOG_SIZE_STD)], -1)


def _context_network(num_sizes: int) -> nn.Sequential:
    """Dilated convolutions over all distances, the evidence and the image; zero at the start."""
    layers: list[nn.Module] = []
    channels = (NUM_DISTANCES + 1) * num_sizes + 3
    for dilation in (1, 2, 4):
        convolution = nn.Conv2d(channels, CONTEXT_WIDTH, 3, padding=dilation, dilation=dilation)
        layers += [convolution, nn.GroupNorm(8, CONTEXT_WIDTH), nn.GELU()]
        channels = CONTEXT_WIDTH
    last = nn.Conv2d(CONTEXT_WIDTH, num_sizes, 1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(*layers, last)


def _dilate(mask: Tensor) -> Tensor:
    """Two pixels wider on every side; two separable passes take half the time of a square one."""
    return F.max_pool2d(F.max_pool2d(mask, (5, 1), 1, (2, 0)), (1, 5), 1, (0, 2))
