"""The page of `partloc demo`: its answers without gradio, and the page in Chromium with it."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from answer_schema import require_valid
from checkout import ROOT
from toys import noise_image

from partloc.commands import web as command
from partloc.inference.locator_api import Locator
from partloc.system.cli import EXTRA_OF_PACKAGE
from partloc.web import COLUMNS, NO_CAMERA, find_examples, locate

VIEW = (45.0, 30.0, 30.0)


@pytest.fixture
def locator(checkpoint) -> Locator:
    return Locator(checkpoint, "cpu", camera=VIEW)


@pytest.fixture
def images(tmp_path) -> list[str]:
    """The paths of a whole and of two parts."""
    paths = [tmp_path / f"{name}.png" for name in ("whole", "leg", "seat")]
    for seed, path in enumerate(paths):
        noise_image(seed).save(path)
    return [str(path) for path in paths]


# -- answers -----------------------------------------------------------------------------------


def test_the_answers_are_those_of_infer(locator, images):
    whole, *parts = images
    found = locate(locator, whole, parts)
    require_valid(found.answer)
    estimates = locator.locate(whole, parts)
    expected = [e.to_dict(with_hypotheses=False) for e in estimates]
    assert found.answer == [
        {"part": name} | answer
        for name, answer in zip(("leg.png", "seat.png"), expected, strict=True)
    ]
    one = locate(locator, whole, parts[:1])
    require_valid(one.answer)
    assert "part" not in one.answer
    assert [len(row) for row in found.rows] == [len(COLUMNS)] * 2
    assert [row[0].split()[1] for row in found.rows] == ["leg.png", "seat.png"]


def test_each_part_is_drawn_on_the_whole(locator, images):
    whole, *parts = images
    pictures = [locate(locator, whole, chosen).picture for chosen in (parts[:1], parts)]
    assert pictures[0].size == pictures[1].size
    assert (np.asarray(pictures[0]) != np.asarray(pictures[1])).any()


def test_without_a_camera_no_place_is_drawn_and_the_note_says_so(checkpoint, images):
    whole, *parts = images
    locator = Locator(checkpoint, "cpu")
    pictures = []
    for chosen in (parts[:1], parts):
        found = locate(locator, whole, chosen)
        assert NO_CAMERA in found.note and len(found.rows) == len(chosen)
        pictures.append(np.asarray(found.picture))
    assert (pictures[0] == pictures[1]).all()


def test_a_bad_part_is_named_and_the_others_are_placed(locator, images, tmp_path):
    whole, leg, _ = images
    bad = tmp_path / "notes.txt"
    bad.write_text("no image")
    found = locate(locator, whole, [str(bad), leg])
    assert "notes.txt: not an image of PNG" in found.note and str(tmp_path) not in found.note
    assert found.rows == [["1  leg.png", *found.rows[0][1:]]]
    assert found.picture is not None


def test_a_bad_whole_and_a_missing_image_are_a_sentence(locator, images, tmp_path):
    bad = tmp_path / "cut.png"
    bad.write_bytes(Path(images[0]).read_bytes()[:200])
    found = locate(locator, str(bad), images[1:])
    assert (found.note, found.rows) == ("cut.png: Truncated File Read", [])
    assert locate(locator, None, images[1:]).note == "Drop an image of the whole."
    for nothing in (None, []):
        assert locate(locator, images[0], nothing).note == "Drop an image of a part."


def test_the_examples_are_those_of_the_clone_also_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    many, one = find_examples()
    assert Path(many.whole) == ROOT / "examples/bench/bench-whole.png"
    assert len(many.parts) == 4 and one.parts == many.parts[-1:]


# -- the command -------------------------------------------------------------------------------


def test_without_gradio_the_command_names_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["partloc demo"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "package gradio; install partloc[web]: pip install '.[web]'" in capsys.readouterr().err
    assert EXTRA_OF_PACKAGE["gradio"] == "web"


# -- the page ----------------------------------------------------------------------------------

# Reports every attempt to reach another machine.
START = """
import sys
def report(event, arguments):
    host = arguments[1] if event == "socket.connect" else arguments[0] if event == "socket.getaddrinfo" else None
    host = host[0] if isinstance(host, tuple) else host
    if host not in (None, "127.0.0.1", "localhost") and not str(host).startswith("/"):
        print("leaves:", event, host, file=sys.stderr)
sys.addaudithook(report)
from partloc.commands.web import main
main()
"""  # noqa: E501


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of the page with the shipped weights; nothing was sent to another machine."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", START, "--port", str(port), "--device", "cpu"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=file,
        )
    try:
        for _ in range(600):
            if re.search("open http", log.read_text()) or process.poll() is not None:
                break
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 128 + 15 and "SIGTERM: stopped" in log.read_text()
    assert "leaves:" not in log.read_text() and "Traceback" not in log.read_text()


@pytest.fixture
def tab(served):
    """The page in Chromium; at the end no error was reported, and no request has left."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    problems = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        local = re.compile(f"{re.escape(served)}|data:|blob:")
        page.on("request", lambda r: local.match(r.url) or problems.append(r.url))
        page.goto(served)
        page.wait_for_selector("td:has-text('side-2')")
        yield page
        browser.close()
    assert problems == []


def test_the_page_opens_with_an_example_that_is_placed(tab):
    picture = tab.locator("img[src*='image.png']")
    picture.wait_for()
    assert picture.evaluate("img => img.naturalWidth") > 1000
    assert "bench-plank-1.png" in tab.inner_text("body")


def test_dropped_images_are_placed_and_bad_ones_get_a_sentence(tab, tmp_path):
    bad = tmp_path / "notes.txt"
    bad.write_text("no image")
    good = ROOT / "examples/bench/bench-side-1.png"
    tab.locator("#parts").get_by_label("Clear").click()
    tab.locator("#parts input[type=file]").set_input_files([str(bad), str(good)])
    tab.wait_for_selector("#parts :text('notes')")
    tab.click("text=Place the parts")
    tab.wait_for_selector("#note:has-text('notes.txt: not an image of PNG')")
    tab.wait_for_selector("#poses td:has-text('0.411')", state="attached")
    assert "1 bench-side-1.png" in " ".join(tab.inner_text("#poses").split())
