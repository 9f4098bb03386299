"""Teach the network that judges the places of equal parts together. For `make pretrain`.

It learns from what a model of partloc's proposes for the equal parts of procedural objects that
the model has not learned from. Their labels tell which proposals are right.

Shapes: G groups of equal parts, B of a batch, C = MOST_PLACES, T = MOST_PARTS.
"""

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from partloc.config import Config, TrainConfig, digest
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.distributed import Team, choose_device, seed_everything
from partloc.evaluation.evaluate import Answers, answer_models
from partloc.files import hash_file, replacing
from partloc.inference.arrangement_net import MOST_PARTS, MOST_PLACES, ArrangementNet, Offer
from partloc.inference.assignment import offer_of, offered, with_completing
from partloc.model.model_file import load_model
from partloc.pose import PartPose
from partloc.pretraining.trainer import Teacher
from partloc.synthetic.dataset import PRETRAINING, each, write_model
from partloc.training.optim import make_optimizer, make_schedule
from partloc.training.run_folder import RunFolder

STREAMS = {"models": 13, "batches": 14}  # of chance, as in plan and demo
STATE_FORMAT = 1  # raise it when the meaning of a state or of a file of groups changes
CHUNK = 100  # models in a file
BATCH = 96  # groups
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1.5e-3, 0.05, 0.1  # AdamW's; share of all steps
EPOCH = 500  # steps from one saved state to the next
HELD_BACK = 20  # of so many groups one is
# Changes of a group while it is learned from: mirrored left and right, each axis of the whole up
# to so much longer or shorter, sizes too; the camera turned, one standard deviation in degrees;
# places left out, up to so many of all; support that counts more or less, and noise on it.
STRETCH, TURN, LEFT_OUT, WEIGHED, NOISE = 0.2, 5.0, 0.2, 0.3, 0.5
# Distance at which a place hardly counts as the right one any more, model units, and what it
# counts beside how sure the network is of the place, where places are matched to the parts.
NEARLY, DISTANCE = 0.08, 8.0
# One model of a known kind, then one of solids grown on each other, few or many, by turns; other
# ones than poses are learned from, on which proposals are better than they will be.
RECIPE = replace(
    PRETRAINING,
    stream=STREAMS["models"],
    families={
        name: entry
        for number, (name, entry) in enumerate(PRETRAINING.families.items())
        if number % 3 < 2
    },
)


class Groups(NamedTuple):
    """G groups of equal parts: what was proposed, and what is true.

    offer: as `Offer` has it, of C places, but positions are in the whole's frame. truth:
    (G, T, 3), the labelled translations of `offer.count` parts.
    """

    offer: Offer
    truth: Tensor

    def pick(self, rows: Tensor) -> "Groups":
        return Groups(Offer(*(field[rows] for field in self.offer)), self.truth[rows])


def draw_groups(folder: Path, config: Config, weights: Path, workers: int) -> None:
    """Render pretrain.arrangement_models objects, let the model file `weights` answer them, and
    keep its proposals, CHUNK objects to a file; files of an interrupted call stay."""
    model, device = load_model(weights), choose_device(config.machine.device)
    if model.view is None:
        raise ValueError(f"{weights}: knows no camera, and places are judged as a camera sees them")
    chunks = _chunks(folder, config, weights)
    for path, numbers in tqdm(chunks, "groups", unit="file", disable=None):
        if path.exists():
            continue
        pictures = path.with_suffix("")
        shutil.rmtree(pictures, ignore_errors=True)
        pictures.mkdir(parents=True)
        size = config.demo.image_size
        draw = partial(write_model, pictures, size, config.seed, recipe=RECIPE)
        deque(each(draw, numbers, workers), maxlen=0)
        data = config.data.model_copy(update={"data_dir": str(pictures)})
        table = PairTable(build_index(data, workers).manifest, pictures)
        groups = [_no_groups()]  # a few last objects may have none
        for answers in answer_models(model, table, config, device):
            groups += groups_of(answers, table)
        with replacing(path) as file:
            np.savez(file, **_by_name(_joined(groups)))
        shutil.rmtree(pictures)


def _chunks(folder: Path, config: Config, weights: Path) -> list[tuple[Path, range]]:
    """Each file of groups, and the numbers of its models."""
    folder, count = folder / _origin(config, weights), config.pretrain.arrangement_models
    numbers = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    return [(folder / f"{some.start:06d}-{some.stop:06d}.npz", some) for some in numbers]


def _origin(config: Config, weights: Path) -> str:
    """Differs where groups do: by seed, settings and weights."""
    told = [STATE_FORMAT, config.seed, config.demo.image_size, config.data.model_dump()]
    return digest([*told, hash_file(weights).read_text()])[:16]


def groups_of(answers: Answers, table: PairTable) -> Iterator[Groups]:
    """What is offered and true of each group of 2 to MOST_PARTS equal parts, G = 1."""
    found, rows = answers.found, answers.rows
    for group in table.twin_groups(rows):
        if 2 <= len(group) <= MOST_PARTS:
            hypotheses = PartPose(*(field[group] for field in found.hypotheses))
            share = found.log_share[group]
            places = with_completing(offered(hypotheses, share), hypotheses, share)
            offer = offer_of(places, found.log_odds[group], torch.eye(3))
            padding = MOST_PLACES - len(places.number)
            padded = (_padded(field, padding) for field in offer[:-1])
            truth = table.translation[rows[group]][None]
            yield Groups(Offer(*padded, offer.count), _padded(truth, MOST_PARTS - len(group)))


def _no_groups() -> Groups:
    numbers, flags = torch.zeros(0, MOST_PLACES), torch.zeros(0, MOST_PLACES, dtype=torch.bool)
    position, truth = (torch.zeros(0, count, 3) for count in (MOST_PLACES, MOST_PARTS))
    count = torch.zeros(0, dtype=torch.long)
    return Groups(Offer(position, *3 * (numbers,), *2 * (flags,), count), truth)


def _padded(field: Tensor, count: int) -> Tensor:
    """(1, N, ...) -> (1, N + count, ...), with zeros."""
    return torch.cat([field, field.new_zeros(1, count, *field.shape[2:])], 1)


def _joined(groups: Sequence[Groups]) -> Groups:
    offers, truths = zip(*groups, strict=True)
    fields = (torch.cat(field) for field in zip(*offers, strict=True))
    return Groups(Offer(*fields), torch.cat(truths))


def _by_name(groups: Groups) -> dict[str, np.ndarray]:
    fields = groups.offer._asdict() | {"truth": groups.truth}
    return {name: field.numpy() for name, field in fields.items()}


def read_groups(folder: Path, config: Config, weights: Path) -> Groups:
    """What `draw_groups` has written."""
    groups = []
    for path, _ in _chunks(folder, config, weights):
        fields = {name: torch.from_numpy(field) for name, field in np.load(path).items()}
        truth = fields.pop("truth")
        groups.append(Groups(Offer(**fields), truth))
    return _joined(groups)


def changed(groups: Groups, axes: Tensor) -> Groups:
    """As they might have been, and seen by a camera that looks along `axes`; drawn from torch's
    global chance."""
    offer, count = groups.offer, len(groups.truth)
    stretch = 1 + STRETCH * _either(count, 1, 3)
    turned = torch.linalg.matrix_exp(_crossed(torch.deg2rad(TURN * torch.randn(count, 3))))
    mirrored = torch.where(torch.rand(count, 1, 1) < 0.5, -1.0, 1.0)
    mirror = torch.cat([mirrored, torch.ones(count, 1, 2)], 2)

    def seen(places: Tensor) -> Tensor:
        return (places * stretch @ axes.T * mirror) @ turned.mT

    stays = torch.rand(offer.there.shape) >= LEFT_OUT * torch.rand(count, 1)
    stays[:, 0] = True
    support = offer.support * torch.exp(WEIGHED * _either(count, 1))
    return Groups(
        Offer(
            seen(offer.position),
            offer.log_size + STRETCH * _either(count, 1),
            support + NOISE * torch.randn(support.shape),
            offer.log_odds,
            offer.proposed,
            offer.there & stays,
            offer.count,
        ),
        seen(groups.truth),
    )


def _either(*size: int) -> Tensor:
    """Evenly from -1 to 1."""
    return 2 * torch.rand(size) - 1


def _crossed(turns: Tensor) -> Tensor:
    """(B, 3) -> (B, 3, 3), whose matrix exponential turns round each by its length."""
    x, y, z = turns.T
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, 1)


def loss_of(log_odds: Tensor, groups: Groups) -> Tensor:
    """Surprise at which places hold a part, (B,), for each of the parts.

    Each part is held by one place: where they are matched, near and likely ones go first.
    Source: the set loss of DETR (arXiv:2005.12872).
    """
    offer, truth = groups
    distance = torch.cdist(offer.position, truth)  # (B, C, T)
    cost = DISTANCE * distance.clamp(max=0.5) - log_odds.detach().sigmoid()[..., None]
    cost = cost.masked_fill(~offer.there[..., None], 1e3).numpy()
    target = torch.zeros_like(log_odds)
    for row, count in enumerate(offer.count.tolist()):
        places, parts = linear_sum_assignment(cost[row, :, :count])
        target[row, places] = (-(distance[row, places, parts] / NEARLY).square() / 2).exp()
    surprise = F.binary_cross_entropy_with_logits(log_odds, target, reduction="none")
    return (surprise * offer.there).sum(1) / offer.count


def placed_errors(score: Tensor, groups: Groups) -> Tensor:
    """How far off the parts are on the places of the highest scores (G, C): the mean over the
    parts of each group, (G,), matched as `metrics.assigned_errors` does."""
    score = score.masked_fill(~groups.offer.there, -torch.inf)
    errors = []
    for row, count in enumerate(groups.offer.count.tolist()):
        taken = groups.offer.position[row, score[row].topk(count).indices]
        distance = torch.cdist(taken, groups.truth[row, :count])
        errors.append(distance[linear_sum_assignment(distance.numpy())].mean())
    return torch.stack(errors)


def train_arrangement(config: Config, folder: Path, weights: Path, root: Path, out: Path) -> None:
    """Train on the groups in `folder` that the model file `weights` has proposed, going on with
    the state in `root` where there is one; write the network's weights, their checksum and the
    figures to `out` and beside it."""
    keys = ("arrangement_models", "arrangement_steps")
    chosen = {key: getattr(config.pretrain, key) for key in keys}
    run = RunFolder(root, digest([chosen, _origin(config, weights)]))
    with run.locked():
        groups = read_groups(folder, config, weights)
        trainer = ArrangementTrainer(config, groups, load_model(weights).view.axes)
        state = run.load_state()
        if state is not None:
            trainer.restore(state)
        trainer.train(run)
        figures = {"seed": config.seed, **chosen, "groups": len(groups.truth)}
        trainer.write(out, figures | {"unit": "model units"})


class ArrangementTrainer(Teacher):
    """Trains the network for pretrain.arrangement_steps, in one process on the CPU."""

    def __init__(self, config: Config, groups: Groups, axes: Tensor) -> None:
        seed_everything(config.seed)
        steps, alone = config.pretrain.arrangement_steps, Team(0, 1, torch.device("cpu"))
        super().__init__("arrangement", ArrangementNet(), steps, EPOCH, alone)
        self.seed, self.axes = config.seed, axes
        kept_apart = torch.arange(len(groups.truth)) % HELD_BACK == 0
        rows = (~kept_apart).nonzero()[:, 0], kept_apart.nonzero()[:, 0]
        self.learned, held_back = (groups.pick(some) for some in rows)
        self.held_back = Groups(
            held_back.offer._replace(position=held_back.offer.position @ axes.T),
            held_back.truth @ axes.T,
        )
        rates = TrainConfig(
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            num_epochs=1,
            warmup_epochs=WARMUP,
        )
        self.optimizer = make_optimizer(self.net, rates)
        self.schedule = make_schedule(self.optimizer, self.steps, rates)

    def loss(self) -> Tensor:
        chance = np.random.default_rng([self.seed, STREAMS["batches"], self.step])
        torch.manual_seed(int(chance.integers(2**31)))
        rows = torch.randint(len(self.learned.truth), (BATCH,))
        groups = changed(self.learned.pick(rows), self.axes)
        return loss_of(self.net(groups.offer), groups).mean()

    @torch.inference_mode()
    def judge(self) -> dict[str, float]:
        """Means over the groups held back, their places judged together, and each by itself. Other
        groups of the same objects may have been learned from."""
        self.net.eval()
        offer = self.held_back.offer
        scores = {"error": self.net(offer), "error_by_support": offer.support}
        return {
            name: placed_errors(score, self.held_back).mean().item()
            for name, score in scores.items()
        }
