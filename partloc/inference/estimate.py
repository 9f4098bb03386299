"""The prediction for one part in plain numbers, and its form in JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PoseEstimate:
    """A pose and its confidence, rounded to 6 decimals.

    translation: (x, y, z), whole-model units. scale: longest edge of the part divided by that of
        the whole. confidence: probability that the translation error is below
        `pose.RIGHT_TOLERANCE`.
    hypotheses: all poses that were considered, the most probable first; they have none themselves.
    plain_background: whether whole and part have a plain background; without one, the confidence is
        lower.
    """

    translation: tuple[float, float, float]
    scale: float
    confidence: float
    hypotheses: tuple["PoseEstimate", ...] = ()
    plain_background: bool = True

    def to_dict(self, with_hypotheses: bool = True) -> dict[str, Any]:
        """The JSON object that the command `infer` prints, see answer.schema.json."""
        values: dict[str, Any] = {
            "translation": list(self.translation),
            "scale": self.scale,
            "confidence": self.confidence,
        }
        if with_hypotheses and self.hypotheses:
            values["hypotheses"] = [pose.to_dict() for pose in self.hypotheses]
        return values


def make_answer(
    parts: Sequence[str], estimates: Sequence[PoseEstimate], with_hypotheses: bool
) -> dict[str, Any] | list[dict[str, Any]]:
    """The JSON of the parts of one whole: an object for one part, else a list of objects, each
    with the name of its part; see answer.schema.json."""
    answers = [
        {"part": part} | estimate.to_dict(with_hypotheses)
        for part, estimate in zip(parts, estimates, strict=True)
    ]
    if len(answers) != 1:
        return answers
    del answers[0]["part"]
    return answers[0]
