"""The answer for pictures without labels: where the parts of a whole belong.

Everything that is needed is in the checkpoint: architecture, weights and preprocessing.

Shapes: P parts of one whole; S side of the encoder's images, pixels.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from partloc.data.images import DEFAULT_MAX_PIXELS, ImageError, load_rgb
from partloc.data.twins import group_twins, make_thumbnail
from partloc.distributed import choose_device, inference_dtype
from partloc.inference.assignment import assign
from partloc.model.encoder import EncodedImages
from partloc.model.model_file import load_model
from partloc.model.prediction import Prediction
from partloc.pose import PartPose

PICTURES_PER_BATCH = 8
READERS = 2  # threads; decoding leaves Python's lock to the others
PICTURES_AHEAD = 2 * PICTURES_PER_BATCH

Source, Read = TypeVar("Source"), TypeVar("Read")


class Question(NamedTuple):
    """Where do these parts of one whole belong? Paths of pictures."""

    whole: Path | str
    parts: Sequence[Path | str]


class Picture(NamedTuple):
    """A decoded file. pixels: (3, S, S) uint8, S of `Preprocessing.read_size`; digest: the same
    for equal pictures."""

    pixels: Tensor
    thumbnail: np.ndarray
    digest: bytes


class Hypothesis(NamedTuple):
    """A place where a part may belong, and the probability that its translation is less than
    `pose.RIGHT_TOLERANCE` off. pose: tx, ty, tz, scale; whole-model units."""

    pose: list[float]
    confidence: float

    def as_json(self) -> dict[str, Any]:
        return {
            "translation": self.pose[:3],
            "scale": self.pose[3],
            "confidence": self.confidence,
        }


class Found(NamedTuple):
    """What is answered for a part, and all that was considered, as it would be chosen from."""

    best: Hypothesis
    hypotheses: list[Hypothesis]

    def as_json(self, everything: bool) -> dict[str, Any]:
        """What is printed; `everything` adds all hypotheses."""
        others = {"hypotheses": [item.as_json() for item in self.hypotheses]}
        return self.best.as_json() | (others if everything else {})


class Seen:
    """The parts of one whole that have been read: which are equal, and which could not be read.

    errors: for each part; thumbnails: of those without error, named by their place;
    numbers: of each of these, which of the different pictures it shows.
    """

    def __init__(self) -> None:
        self.errors: list[ImageError | None] = []
        self.thumbnails: dict[str, np.ndarray] = {}
        self.numbers: list[int] = []

    def different(self, parts: Iterable[Picture | ImageError]) -> Iterator[Tensor]:
        """The pixels of each picture that none before it equals."""
        known: dict[bytes, int] = {}
        for place, part in enumerate(parts):
            self.errors.append(part if isinstance(part, ImageError) else None)
            if isinstance(part, ImageError):
                continue
            self.thumbnails[f"{place:09d}"] = part.thumbnail
            if part.digest not in known:
                known[part.digest] = len(known)
                yield part.pixels
            self.numbers.append(known[part.digest])


def reading_ahead(read: Callable[[Source], Read], sources: Iterable[Source]) -> Iterator[Read]:
    """What `read` returns for each source, in their order; threads read the next ones meanwhile."""
    pool = ThreadPoolExecutor(READERS)
    waiting: deque[Future[Read]] = deque()
    try:
        for source in sources:
            waiting.append(pool.submit(read, source))
            if len(waiting) > PICTURES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Predictor:
    """A trained model, ready to be asked.

    Raises: CheckpointError for a missing or foreign checkpoint, ValueError for an absent device.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.device, self.max_pixels = choose_device(device), max_pixels
        self.model = load_model(Path(checkpoint)).to(self.device)

    def predict(self, whole: Path | str, parts: Sequence[Path | str]) -> list[Found | ImageError]:
        """Where the parts of one whole belong; an error stands for a part that cannot be read.

        The whole is encoded once, and so is each of several equal pictures. Parts that look the
        same are several of a kind, and are given distinct places.
        Raises: ImageError for a whole that cannot be read.
        """
        (outcomes,) = self.predict_all([Question(whole, parts)])
        if isinstance(outcomes, ImageError):
            raise outcomes
        return outcomes

    def predict_all(
        self, questions: Iterable[Question]
    ) -> Iterator[list[Found | ImageError] | ImageError]:
        """As `predict`, one whole after the other; an error stands for a whole that cannot be read.

        Some pictures are read ahead while others are computed with; no more are ever held. An
        answer does not depend on the other questions.
        """
        questions, ahead = tee(questions)
        paths = (path for question in ahead for path in (question.whole, *question.parts))
        with closing(reading_ahead(self._read, paths)) as pictures:
            for question in questions:
                whole, parts = next(pictures), islice(pictures, len(question.parts))
                yield whole if isinstance(whole, ImageError) else self._answer(whole, parts)
                deque(parts, maxlen=0)  # pass over those of an unreadable whole

    def _read(self, path: Path | str) -> Picture | ImageError:
        try:
            image = load_rgb(path, self.max_pixels)
        except ImageError as error:
            return error
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        return Picture(self.model.preprocessing.resize(image), make_thumbnail(image), digest)

    def _answer(
        self, whole: Picture, parts: Iterable[Picture | ImageError]
    ) -> list[Found | ImageError]:
        seen = Seen()
        pixels = chain([whole.pixels], seen.different(parts))
        tokens = self._encode(list(islice(pixels, PICTURES_PER_BATCH)))
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        others = torch.arange(1, len(tokens.cls), device=self.device)
        answers = [self._locate(tokens.select(first), tokens.select(others))] if len(others) else []
        while batch := list(islice(pixels, PICTURES_PER_BATCH)):
            answers.append(self._locate(tokens.select(first), self._encode(batch)))
        found = iter(self._found(answers, seen))
        return [error or next(found) for error in seen.errors]

    @torch.inference_mode()
    def _encode(self, pixels: list[Tensor]) -> EncodedImages:
        images = self.model.preprocessing.normalize(torch.stack(pixels).to(self.device))
        return self.model.encode(images, inference_dtype(self.device))

    @torch.inference_mode()
    def _locate(self, whole: EncodedImages, parts: EncodedImages) -> Prediction:
        """Hypotheses for parts of one whole, on the CPU."""
        index = torch.zeros(len(parts.cls), dtype=torch.long, device=self.device)
        found = self.model.predict(whole, parts, index)
        poses = PartPose(*(field.cpu() for field in found.hypotheses))
        return Prediction(poses, found.log_weight.cpu(), found.confidence_logit.cpu())

    def _found(self, answers: list[Prediction], seen: "Seen") -> list[Found]:
        """One answer for each picture that could be read, in their order."""
        if not answers:
            return []
        poses, *told = zip(*(answer[:3] for answer in answers), strict=True)
        poses = PartPose(*(torch.cat(field)[seen.numbers] for field in zip(*poses, strict=True)))
        log_weight, confidence_logit = (
            torch.cat(field)[seen.numbers] for field in told
        )  # (P, K) each
        confidence = self.model.confidence(confidence_logit.to(self.device)).cpu()
        rows = torch.cat(poses, 2)  # (P, K, 4)
        twins = group_twins(seen.thumbnails)
        members: dict[str, list[int]] = {}
        for row, name in enumerate(seen.thumbnails):
            members.setdefault(twins[name], []).append(row)
        axes = self.model.pinhole_camera and self.model.pinhole_camera.axes
        best: dict[int, Hypothesis] = {}
        for group in members.values():
            hypotheses = PartPose(*(field[group] for field in poses))
            placed = assign(hypotheses, log_weight[group], confidence_logit[group], axes)
            own = confidence[group].flatten()[placed.number]
            sure = torch.where(placed.number >= 0, own, placed.confidence_logit.sigmoid())
            for place, row in enumerate(group):
                best[row] = _hypothesis(torch.cat(placed.pose, 1)[place], sure[place])
        order = log_weight.argsort(dim=1, descending=True, stable=True)
        return [
            Found(best[row], [_hypothesis(rows[row, k], confidence[row, k]) for k in order[row]])
            for row in range(len(rows))
        ]


def _hypothesis(pose: Tensor, confidence: Tensor) -> Hypothesis:
    """Rounded to 6 decimals; the scale stays above 0."""
    *place, scale = (round(v, 6) + 0.0 for v in pose.tolist())
    return Hypothesis([*place, max(scale, 1e-6)], round(confidence.item(), 6))
