"""What all commands share: output in any encoding, summaries and signals."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from programs import start

from partloc.system.cli import MAX_SUMMARY_LINES, print_json, print_summary

pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.mark.parametrize(
    ("encoding", "text", "is_escaped"),
    [
        ("ascii", "Stühle", True),
        ("utf-8", "Stühle", False),
        ("utf-8", "not UTF-8: \udcff", True),
        ("latin-1", "椅子", True),
        ("utf-16", "Stühle", False),
    ],
)
def test_printed_json_can_be_read_in_every_encoding(monkeypatch, encoding, text, is_escaped):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    print_json([{"part": text}])
    sys.stdout.flush()
    line = stream.getvalue().decode(encoding)
    assert json.loads(line) == [{"part": text}] and line.endswith("\n")
    assert ("\\u" in line) == is_escaped


# -- summaries ---------------------------------------------------------------------------------


def test_a_summary_goes_to_stderr_and_names_the_results(capsys):
    print_summary("two lines\nof numbers", Path("a"), Path("b/c"))
    assert capsys.readouterr() == ("", "two lines\nof numbers\nwritten: a, b/c\n")


def test_a_long_summary_is_cut_to_the_screen(capsys):
    for length in (MAX_SUMMARY_LINES - 1, MAX_SUMMARY_LINES, 50):
        print_summary("\n".join(f"line {number}" for number in range(length)), Path("a"))
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == MAX_SUMMARY_LINES
        assert lines[0] == "line 0" and lines[-1] == "written: a"
    assert lines[-2] == "... and 40 more lines" and lines[-3] == "line 9"


# -- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "module"),
    [
        ("SIGINT", ("stages/index.py", "--help"), "numpy"),
        ("SIGTERM", ("stages/index.py", "--help"), "numpy"),
        ("SIGHUP", ("stages/evaluate.py", "--help"), "torch"),
        ("SIGINT", ("-m", "partloc", "train", "--help"), "torch.nn"),
        ("SIGINT", ("stages/infer.py", "--whole", "a.png", "--part", "a.png"), "torch._C"),
        ("SIGTERM", ("stages/infer.py", "--data-dir", "a", "--output", "b"), "torch._C"),
    ],
)
def test_a_signal_during_imports_is_one_line_and_a_status(tmp_path, name, arguments, module):
    (tmp_path / "a.png").touch()
    script, *options = arguments
    if script.startswith("stages/"):
        script = ROOT / script
    if options[0] in ("--whole", "--data-dir"):
        options += ["--checkpoint", "a.png"]
    command = [sys.executable, "-X", "importtime", script, *options]  # reports each import
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.split("|")[-1].strip().startswith(module):
                break
        process.send_signal(signal.Signals[name])
        lines = [line for line in process.stderr if "import time" not in line]
    assert lines == [f"{name}: stopped\n"]
    assert process.returncode == 128 + signal.Signals[name]


RUN = """
import sys, time
from partloc.system.cli import run_command
def main():
    print("begun", flush=True)
    time.sleep(60)
    print("ended")
run_command(main, "stopped; resume it")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_to_a_command_is_one_line_that_says_how_to_resume(name):
    with start("-c", RUN) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.Signals[name])
        assert process.communicate()[1] == f"{name}: stopped; resume it\n"
    assert process.returncode == 128 + signal.Signals[name]


def test_a_command_under_nohup_ignores_the_end_of_its_terminal():
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with start("-c", ignoring + RUN.replace("60", "1")) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate() == ("ended\n", "")
    assert process.returncode == 0


# -- the camera of infer -----------------------------------------------------------------------


def run_example(*options: str) -> subprocess.CompletedProcess[str]:
    bench = ROOT / "examples/bench"
    parts = sorted(path for path in bench.glob("*.png") if "whole" not in path.name)
    images = ["--whole", str(bench / "bench-whole.png"), "--part", str(parts[0])]
    command = [sys.executable, str(ROOT / "stages/infer.py"), *images, "--device", "cpu", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_infer_says_which_camera_it_uses_and_in_which_frame_it_answers():
    frame = "translations are in a right-handed frame with z upward"
    model = "--checkpoint", str(ROOT / "partloc/weights/dinov2_vitt14.pth")
    assert f"camera: of the model file; {frame}" in run_example(*model).stderr
    given = run_example(*model, "--camera=-20,10,45")
    assert f"camera: as given; {frame}" in given.stderr
    assert json.loads(given.stdout)["translation"]


@pytest.mark.parametrize("text", ["45,30", "left,30,30", "45,30,30,1"])
def test_a_camera_of_other_than_three_numbers_is_explained(text):
    done = run_example(f"--camera={text}")
    assert done.returncode == 2
    assert f"{text!r}; expected azimuth,elevation,field of view in degrees" in done.stderr
