"""The network behind the encoder as an ONNX file, for one pair of whole and part.

ONNX has neither arithmetic of complex numbers nor a stable sort. The file correlates directly
instead of by FFT, and sorts by TopK, which gives the same weighted median.

Shapes: M tokens per image, D backbone width, h pixels per side of a crop, K hypotheses.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.encoder import EncodedImages
from partloc.model.locator import PartLocator
from partloc.model.proposals import ProposalLocator
from partloc.model.template_matching import TemplateMatching
from partloc.system.files import open_atomic

OPSET = 20
TOLERANCE = 1e-4  # of all outputs, against PyTorch


class PairInputs(NamedTuple):
    """The inputs of the file: `EncodedImages` of one whole and one part, without thumbnails.

    tokens: (1, M, D). image: (1, 3, h, h). crop: (1, 3).
    """

    whole_tokens: Tensor
    whole_image: Tensor
    whole_crop: Tensor
    part_tokens: Tensor
    part_image: Tensor
    part_crop: Tensor


class PairOutputs(NamedTuple):
    """translation: (1, K, 3). scale: (1, K, 1). weight: (1, K), of the mixture; the hypothesis of
    the highest weight is the answer. confidence: (1, K), calibrated."""

    translation: Tensor
    scale: Tensor
    weight: Tensor
    confidence: Tensor


class DirectMatching(TemplateMatching):
    """Template matching of one pair, without FFT."""

    def _spectra(self, cells: Tensor, whole_of_part: Tensor) -> tuple[Tensor, Tensor]:
        """The padded cells (1, C, 2 S, 2 S) and their squared length (1, 1, 2 S, 2 S)."""
        margin = self.size // 2
        padded = F.pad(cells, (margin, self.size - margin) * 2, mode="replicate")
        return padded, padded.square().sum(1, keepdim=True)

    @staticmethod
    def _masked_distance(
        template: Tensor, mask: Tensor, image_f: Tensor, energy_f: Tensor
    ) -> Tensor:
        size, cells = image_f.shape[-1] // 2, template.shape[-1]
        start = size // 2 - cells // 2
        window = slice(start, start + size + cells - 1)
        image, energy = image_f[..., window, window], energy_f[..., window, window]
        cross = F.conv2d(energy, mask) - 2 * F.conv2d(image, mask * template)  # (1, 1, S, S)
        own = (mask * template.square()).sum((1, 2, 3))  # (1,)
        total = cross[:, 0] + own[:, None, None]
        return total.clamp(min=0) / (mask.sum((1, 2, 3)) + 1e-3)[:, None, None]


class PairNet(nn.Module):
    """From `PairInputs` to `PairOutputs`, without FFT."""

    def __init__(self, model: ProposalLocator) -> None:
        """model: its template matching is replaced by `DirectMatching`."""
        super().__init__()
        matching = DirectMatching(model.template_matching.size, model.encoder.tokens_per_side)
        matching.load_state_dict(model.template_matching.state_dict())
        model.template_matching = matching
        self.model = model.eval()

    def forward(
        self,
        whole_tokens: Tensor,
        whole_image: Tensor,
        whole_crop: Tensor,
        part_tokens: Tensor,
        part_image: Tensor,
        part_crop: Tensor,
    ) -> PairOutputs:
        inputs = whole_tokens, whole_image, whole_crop, part_tokens, part_image, part_crop
        return predict_pair(self.model, PairInputs(*inputs))


def encode_pair(model: PartLocator, whole: Image.Image, part: Image.Image) -> PairInputs:
    """The inputs of the file for two square images on white."""
    images = torch.stack([model.preprocessing.resize(image) for image in (whole, part)])
    encoded = model.encode(model.preprocessing.normalize(images))
    fields = encoded.tokens, encoded.image, encoded.crop
    return PairInputs(*(field[:1] for field in fields), *(field[1:] for field in fields))


def predict_pair(model: ProposalLocator, inputs: PairInputs) -> PairOutputs:
    """Depth maps, matching, proposals, refinement and score, with the model's own matching."""
    wholes, parts = (
        EncodedImages(tokens, image, model.make_thumbnails(image, crop), crop)
        for tokens, image, crop in (inputs[:3], inputs[3:])
    )
    prediction = model.predict(wholes, parts, torch.zeros(1, dtype=torch.long))
    confidence = model.confidence(prediction.confidence_logit)
    return PairOutputs(*prediction.hypotheses, prediction.log_weight.exp(), confidence)


def draw_pair() -> tuple[Image.Image, Image.Image]:
    """A table and its leg, to trace the network with and to compare with."""
    whole, part = (Image.new("RGB", (256, 256), "white") for _ in range(2))
    pen = ImageDraw.Draw(whole)
    pen.rectangle([40, 80, 215, 100], fill="#a05020")
    for left, color in ((50, "#3060a0"), (195, "#306030")):
        pen.rectangle([left, 101, left + 10, 190], fill=color)
    ImageDraw.Draw(part).rectangle([116, 30, 138, 225], fill="#3060a0")
    return whole, part


@torch.no_grad()
def export_onnx(model: PartLocator, path: Path) -> float:
    """Write the file and compare it with PyTorch. The model is on the CPU.

    Returns: the largest difference of all outputs.
    Raises: ValueError for a model without template matching; FloatingPointError for a difference
        above TOLERANCE, and then nothing is written.
    """
    import onnxruntime

    if not isinstance(model, ProposalLocator):
        raise ValueError(f"{path}: only a model with template matching can be exported")
    inputs = encode_pair(model.eval(), *draw_pair())
    expected = predict_pair(model, inputs)
    program = torch.onnx.export(
        PairNet(model),
        tuple(inputs),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(PairInputs._fields),
        output_names=list(PairOutputs._fields),
        custom_translation_table={torch.ops.aten.sort.stable: _sort},
        verbose=False,
    )
    assert program is not None
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = max_difference(session, inputs, expected)
    if not difference <= TOLERANCE:
        raise FloatingPointError(
            f"{path}: the exported network differs from PyTorch by {difference:.1g}, the limit is "
            f"{TOLERANCE:g}"
        )
    with open_atomic(path) as file:
        file.write(data)
    return difference


def max_difference(session: Any, inputs: PairInputs, expected: PairOutputs) -> float:
    """Between the outputs of a session of onnxruntime and those expected."""
    feed = {name: value.numpy() for name, value in inputs._asdict().items()}
    pairs = zip(session.run(list(PairOutputs._fields), feed), expected, strict=True)
    return max(float(np.abs(found - value.numpy()).max()) for found, value in pairs)


def _sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """aten.sort.stable by TopK; equal values may come in another order."""
    from onnxscript import opset20

    op: Any = opset20  # whose types do not know the values of a trace
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
    return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)
