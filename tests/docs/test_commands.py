"""Every command in the documents exists and accepts its arguments; the cheap ones are run."""

import json
import re
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from doc_commands import CHECKS, DOCUMENTS, commands_in, split_line

from partloc.__main__ import main
from partloc.config import Config, load_config
from partloc.config import main as config_main

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted({command for document in DOCUMENTS for command in commands_in(document)})
ANSWER_TOLERANCE = 2e-3  # processors round differently


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # of tensorboard
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_exists_and_accepts_its_arguments(command):
    name, *arguments = command
    CHECKS[name](arguments)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")
@pytest.mark.parametrize(
    "line",
    [
        "partloc infer --hole a.png",
        "partloc guess",
        "python stages/absent.py",
        "python -m benchmarks.memory --absent",
        "dvc repro --absent",
        "dvc exp run -S train.absent=1",
        "torchrun --nproc-per-node 2 stages/train.py --absent",
        "tensorboard --absent x",
        "make absent",
        "pip install '.[absent]'",
        "python -m pytest tests/absent.py",
    ],
)
def test_a_wrong_command_is_noticed(line):
    from dvc.cli import DvcParserError

    ((name, *arguments),) = split_line(line)
    with pytest.raises((SystemExit, AssertionError, DvcParserError)):
        CHECKS[name](arguments)


def test_all_lines_of_the_bash_blocks_are_understood():
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            commands = [c for line in block.splitlines() for c in split_line(line)]
            assert {command[0] for command in commands} <= CHECKS.keys()


# -- run ---------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The current folder: with params.yaml, and the examples both there and as images of a user."""
    monkeypatch.chdir(tmp_path)
    for name in ("examples", "partloc"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to(ROOT / "examples")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def run(monkeypatch, command: str) -> None:
    """Run a command that README.md contains, in this process."""
    assert command in README
    monkeypatch.setattr(sys, "argv", command.split())
    main()


def printed_answer() -> dict:
    (line,) = [line for line in README.splitlines() if line.startswith('# {"translation"')]
    return json.loads(line.removeprefix("# "))


def test_the_first_command_prints_the_answer_that_the_readme_shows(project, monkeypatch, capsys):
    images = "--whole examples/bench/bench-whole.png --part examples/bench/bench-side-1.png"
    run(monkeypatch, f"partloc infer {images}")
    answer, expected = json.loads(capsys.readouterr().out), printed_answer()
    assert answer.keys() == expected.keys()
    for key, value in expected.items():
        assert answer[key] == pytest.approx(value, abs=ANSWER_TOLERANCE)


def test_the_example_in_python_prints_the_same_answer(project, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, {})
    printed = [float(text) for text in re.findall(r"-?\d\.\d+", capsys.readouterr().out)]
    expected = printed_answer()
    values = [*expected["translation"], expected["scale"], expected["confidence"]]
    assert printed == pytest.approx(values, abs=ANSWER_TOLERANCE)


def test_the_commands_for_own_pictures_run(project, monkeypatch, capsys):
    run(monkeypatch, "partloc infer --data-dir data/images --output predictions")
    assert len([*(project / "predictions").rglob("bench-*.json")]) == 4
    config_main(["--full-size"])
    assert load_config("params.yaml") == Config()
    run(monkeypatch, "partloc index")
    assert re.search(r"\b4 +samples\n", capsys.readouterr().err)


def test_the_settings_are_checked(project, capsys):
    config_main(["--check"])
    assert json.loads(capsys.readouterr().out) == load_config("params.yaml").model_dump()
