"""The yardsticks are fair: the same answers and gradients, and settings that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from torch.testing import assert_close
from toys import let_speak, make_trainer, tiny_config

from benchmarks import experiments, literal, memory, readme, throughput
from benchmarks.setting import full_size
from partloc.config import Config
from partloc.model.camera import View

ROOT = Path(__file__).resolve().parents[2]
# What the benchmarks of a GPU do without.
ABSENT = (
    *("dvc", "matplotlib", "pydantic", "pyvista", "ruamel", "scipy", "tensorboard", "vtk"),
    "partloc.config",
)


def test_training_gives_the_gradients_of_encoding_every_pair_for_itself(tables):
    """A whole once for its parts, equal pictures once: no gradient is lost or counted twice."""
    table = tables[0]
    trainer = make_trainer(tiny_config(), *tables)
    model = trainer.model.train()
    torch.manual_seed(1)
    let_speak(model)
    slope = torch.tensor([[1.0, 0.0, 0.3], [0.0, -1.0, 0.2]])
    model.set_view(View(slope, torch.zeros(2), torch.tensor(0.3), 1.0))
    trainer.knows_view = True
    rows = list(range(8))  # two models, with twins
    assert len(set(table.pictures[rows])) < len(rows)
    trainer.val_batches.table = trainer.val_loader.dataset.table = table
    for batches in (trainer.train_batches, trainer.val_batches):
        batches.set_plan(0, [rows])
    sums = trainer._accumulate(iter(trainer.val_loader), [rows], len(rows))
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    ours = [weight.grad.clone() for weight in learned]
    model.zero_grad()

    (batch,) = literal.literal_loader(table, model.preprocessing, rows, len(rows))
    loss = literal.loss_of(model, table, batch, trainer.config.train)
    loss.backward()
    assert_close(sums[0] / len(rows), loss.detach())
    assert any(gradient.abs().max() > 1e-3 for gradient in ours)
    for gradient, weight in zip(ours, learned, strict=True):
        assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


def test_the_speed_of_training_is_told_only_of_equal_gradients_that_are_there(
    monkeypatch, tmp_path, capsys
):
    output = tmp_path / "throughput.json"
    words = ["--backbone", "dinov2_vitt14", "--image-size", "56", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["throughput.py", *words, "--output", str(output)])
    throughput.main()
    figures = json.loads(output.read_text())
    assert 0 <= figures["gradients_differ"] < 1e-4
    assert f"| {figures['ratio']['median']:.2f} (" in capsys.readouterr().out

    sides = [SimpleNamespace(gradients=[torch.ones(2), torch.full((3,), 1e-9)]) for _ in range(2)]
    sides[0].gradients[1][0] = 1.0  # of a weight that hardly counts
    assert throughput.largest_difference(*sides) == 0
    sides[0].gradients[0][0] = 1.5
    assert throughput.largest_difference(*sides) == pytest.approx(0.5 / 2**0.5)

    monkeypatch.setattr(throughput, "largest_difference", lambda *_: 0.5)
    with pytest.raises(ValueError, match="a gradient differs by 5.0e-01 of its norm"):
        throughput.main()


def test_the_head_s_way_to_the_answer_is_open_where_gradients_are_compared():
    model = throughput.untrained(throughput.small_config("dinov2_vitt14", 56, 4))
    images = torch.randn(2, 3, 56, 56)
    model(images[:1], images[1:], torch.tensor([0])).pose.translation.sum().backward()
    assert model.backbone.vit.blocks[0].attn.qkv.weight.grad.norm() > 1e-6


# In front of a script: whatever of ABSENT is asked for is not installed.
HIDING = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without(*argv: str) -> str:
    code = HIDING.format(absent=ABSENT, argv=list(argv))
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_gpu_s_benchmark_runs_where_only_the_network_s_packages_are(tmp_path):
    small = ["--backbone", "dinov2_vitt14", "--image-size", "56", "--batch", "4"]
    small += ["--workers", "1", "--batches", "2", "--output", str(tmp_path / "gpu.json")]
    shown = run_without("benchmarks/gpu.py", *small)
    figures = json.loads((tmp_path / "gpu.json").read_text())
    for name in ("training", "inference"):
        row = figures[name]
        assert row["pairs_per_s"] > 0
        assert row["tflops"] / figures["matrix_tflops"] == pytest.approx(row["utilisation"], 1e-3)
        told = float(re.search(rf"\| {name} \| ([\d.]+) \|", shown)[1])
        assert told == pytest.approx(row["pairs_per_s"], abs=0.01)
    assert figures["training"].keys() >= {"precision", "fused_adamw", "peak_gb", "first_step_s"}
    assert 0 < figures["loader"]["waiting"] < 1
    assert figures["loader"].keys() >= {"pinned", "synchronisations"}
    shares = [row["share"] for row in figures["kernels"]]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and sum(shares) <= 1
    assert all(row["kernel"] in shown for row in figures["kernels"])
    # A step on tensors that are only pretended would show as Python's own work.
    assert not any("Python" in row["kernel"] for row in figures["kernels"])


def test_memory_is_reckoned_where_only_the_network_s_packages_are():
    small = ["--backbone", "dinov2_vitt14", "--image-size", "56", "--batches", "1"]
    shown = run_without("benchmarks/memory.py", *small)
    assert [line.split(" | ")[1] for line in shown.splitlines()[-4:]] == list(memory.MODES)


def test_the_gpu_s_setting_is_the_full_size_configuration():
    full = Config().model_dump()
    ours = full_size(full["model"]["backbone_name"], full["data"]["image_size"])
    assert vars(ours.model) == full["model"] | {"pretrained": False, "dropout": 0.0}
    assert vars(ours.train).items() <= full["train"].items()


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("table", experiments.TABLES)
def test_every_experiment_changes_keys_that_there_are(table):
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    planned = experiments.experiments_of(table, seed=1)
    assert len({experiment.name for experiment in planned.values()}) == len(planned)
    for experiment in planned.values():
        for setting in experiment.settings:
            *groups, key = setting.partition("=")[0].split(".")
            found = params
            for group in groups:
                found = found[group]
            assert key in found, setting


def test_a_report_tells_of_what_has_ended_and_runs_nothing(monkeypatch, tmp_path, capsys):
    """Of this commit's, as Git has them: a running queue holds DVC's lock to its end."""
    planned = list(experiments.experiments_of("small-data", seed=0).values())
    for words in ("init --quiet", "commit --quiet --allow-empty --message first"):
        git(tmp_path, *words.split())
    before = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "second")
    head = git(tmp_path, "rev-parse", "HEAD")
    raw = {}
    for experiment, of, value in ((0, head, 0.25), (1, before, 0.75), (2, head, 0.125)):
        tree = git(tmp_path, "rev-parse", "HEAD^{tree}")
        commit = git(tmp_path, "commit-tree", tree, "-m", str(value))
        place = f"refs/exps/{of[:2]}/{of[2:]}/{planned[experiment].name}"
        git(tmp_path, "update-ref", place, commit)
        raw[commit] = value

    def figures_of(commit: str, under: str = "") -> dict[str, float]:
        return {"raw": 0.5 if under else raw[commit]}

    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "figures_of", figures_of)
    output = tmp_path / "table.json"
    words = ["experiments.py", "small-data", "--report", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    experiments.main()
    rows = json.loads(output.read_text())["rows"]
    assert [row["raw"] for row in rows] == [0.5, 0.25, 0.125]
    told = capsys.readouterr()
    assert "| 20 models | 1 | " in told.out and "| 10 models |" not in told.out
    assert planned[1].name in told.err and planned[2].name not in told.err

    # One line more beside those of the file; one of another command, or of no line, goes.
    table = json.loads(output.read_text())
    table["rows"][1]["raw"] = 0.0625
    table["rows"][2]["command"] += " --force"
    output.write_text(json.dumps(table | {"rows": [*table["rows"], {"line": "6 models"}]}))
    monkeypatch.setattr(sys, "argv", [*words, "--lines", "20 models"])
    raw[git(tmp_path, "rev-parse", f"refs/exps/{head[:2]}/{head[2:]}/{planned[2].name}")] = 0.75
    experiments.main()
    rows = json.loads(output.read_text())["rows"]
    assert [(row["line"], row["raw"]) for row in rows] == [
        ("always the training median", 0.5),
        ("5 models", 0.0625),
        ("20 models", 0.75),
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--lines", "6 models"])
    with pytest.raises(SystemExit):
        experiments.main()
    assert "no such line: '6 models'; there are 5 models, 10 models" in capsys.readouterr().err


def test_lines_are_compared_with_the_line_of_one_setting_less_seed_by_seed(monkeypatch):
    """A hard test split is hard for both: the lines are further apart than from their like."""
    first, other, shipped = "from random weights", "position: none", "from the shipped weights"
    errors = {first: (0.25, 0.5, 0.75), other: (0.3125, 0.5, 0.8125), shipped: (0.125,)}
    planned = [experiments.experiments_of("ablations", seed) for seed in range(3)]
    done = {
        by_line[line].name: f"{line}/{seed}"
        for seed, by_line in enumerate(planned)
        for line in errors
        if seed < len(errors[line])
    }

    def figures_of(commit: str, under: str = "") -> dict[str, float]:
        line, seed = commit.split("/")
        return {"nearest twin": int(seed) if under else errors[line][int(seed)]}

    monkeypatch.setattr(experiments, "figures_of", figures_of)
    rows = experiments.rows_of("ablations", list(errors), planned, done, {})
    constant, *lines = rows
    assert constant["nearest twin"] == 1.0 and constant["seeds"] == 3
    assert [row["line"] for row in lines] == [first, other, shipped]
    assert experiments.DIFFERENCE not in lines[0] | lines[2]
    assert lines[1]["nearest twin, deviation"] > 0.2
    assert lines[1][experiments.DIFFERENCE] == pytest.approx(0.125 / 3)
    assert lines[1][f"{experiments.DIFFERENCE}, deviation"] == pytest.approx(0.0361, abs=1e-4)
    assert "nearest twin, deviation" not in lines[2]

    # A seed of the other line alone: nothing to take it from.
    del done[planned[2][first].name]
    (_, row) = experiments.rows_of("ablations", [other], planned, done, {})
    assert row["seeds"] == 3 and experiments.DIFFERENCE not in row


def test_every_reference_is_the_same_but_for_one_setting():
    """So a line that is compared says what its name says, and all but the first of a kind are."""
    for table, lines in experiments.TABLES.items():
        alone = [line for line in lines if experiments.reference_of(table, line) is None]
        assert (
            alone
            == {
                "ablations": [
                    "from random weights",
                    "from the shipped weights",
                    "448 px, downsample_size: 8",
                ],
                "small-data": ["all models", "all models, from random weights"],
            }[table]
        )


def test_the_readme_s_tables_are_the_committed_figures():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.written(text) == text
    (partloc,) = re.findall(r"\| partloc \| 0.*\n", text)
    assert readme.written(text.replace(partloc, "| partloc | 0.001 |\n")) == text
    with pytest.raises(ValueError, match="expected once the heading of table baselines: .* raw"):
        readme.written(text.replace("| raw | nearest", "| nearest"))


def test_a_command_that_fails_is_told_with_what_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    with pytest.raises(ChildProcessError, match=r"^git rev-parse HEAD: fatal: not a git"):
        experiments.finished()
