"""The READMEs agree, links lead somewhere, and generated files are those of the code."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image
from ruamel.yaml import YAML

import partloc
from benchmarks.doc_tables import read_metrics
from examples.picture import PICTURE_FILE, draw_picture, predict, replace_answer
from partloc.config import Config
from tools.api_docs import API_FILE, make_page
from tools.params_schema import SCHEMA_FILE, schema_text

ENGLISH, CHINESE = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])
MAX_README_LINES, MAX_PICTURE_BYTES = 130, 100_000
HAN_CHARACTER = re.compile(r"[\u4e00-\u9fff]")


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```.*?^```", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def figures(text: str) -> set[str]:
    """All numbers outside code and outside the targets of links."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|3-D", "", prose(text))
    return {*re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text)}


# -- the READMEs -------------------------------------------------------------------------------


def test_the_readmes_have_the_same_code_figures_and_links():
    assert code_blocks(CHINESE) == code_blocks(ENGLISH)
    assert figures(CHINESE) == figures(ENGLISH)
    english, chinese = (Counter(re.findall(r"\]\(([^)]*)\)", text)) for text in (ENGLISH, CHINESE))
    assert english - chinese == {"README.zh-CN.md": 1} and chinese - english == {"README.md": 1}


def test_the_tables_of_the_readmes_have_the_same_figures():
    tables = [
        [re.findall(r"[\d.]+", line)[-4:] for line in text.splitlines() if line.startswith("| ")]
        for text in (ENGLISH, CHINESE)
    ]
    assert tables[0] == tables[1] and len(tables[0]) == 1 + 6


def test_the_readmes_have_the_same_sections():
    levels = [re.findall(r"^(#+) ", prose(text), flags=re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    headings = re.findall(r"^#+ (.*)", prose(CHINESE), flags=re.MULTILINE)[1:]
    assert all(map(HAN_CHARACTER.search, headings))


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_a_readme_is_one_short_page(text):
    assert len(text.splitlines()) <= MAX_README_LINES


def test_the_speed_and_memory_at_full_size_are_the_measured_ones():
    training = read_metrics("gpu")["training"]
    text = " ".join(ENGLISH.split())
    assert f"One H100 trains {training['pairs_per_s']:.1f} pairs a second" in text
    minutes = 50 * 1000 / training["pairs_per_s"] / 60
    assert f"in {training['peak_gb']:.1f} GB with batches of 8 pairs: {minutes:.0f} min" in text


def test_the_numbers_of_models_are_those_of_the_metrics():
    demo, real = read_metrics("demo"), read_metrics("cross_validation")["as-shipped"]
    training = read_metrics("demo_training")["rows"][0]["num_models"]["train"]
    for text in (ENGLISH, CHINESE):
        assert {str(demo["n_models"]), str(real["n_models"]), str(training)} <= figures(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_heading(page):
    text = prose(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", text):
        name, _, anchor = target.partition("#")
        if name.startswith("http"):
            continue
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", file.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


# -- generated files ---------------------------------------------------------------------------


def test_the_reference_of_the_api_is_that_of_the_docstrings():
    assert API_FILE.read_text(encoding="utf-8") == make_page(), "run: make docs"


def test_the_schema_is_that_of_the_configuration():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run: make docs"


def test_params_yaml_names_the_schema_which_describes_all_its_keys():
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE.relative_to(ROOT)}\n")
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    for group, values in YAML(typ="safe").load(text).items():
        described = schema["properties"][group]
        assert described["description"]
        if isinstance(values, dict):
            keys = schema["$defs"][described["$ref"].removeprefix("#/$defs/")]["properties"]
            assert keys.keys() == values.keys()
            assert all(key["description"] for key in keys.values())
    assert schema["properties"].keys() == Config.model_fields.keys()


def test_the_picture_is_small_and_that_of_the_shipped_weights():
    assert PICTURE_FILE.stat().st_size < MAX_PICTURE_BYTES
    drawn = np.asarray(draw_picture(*predict()), dtype=float)
    kept = np.asarray(Image.open(PICTURE_FILE).convert("RGB"), dtype=float)
    # The picture has a palette, and processors round differently.
    assert drawn.shape == kept.shape and np.abs(drawn - kept).mean() < 1


def test_only_a_readme_with_one_prediction_gets_a_new_one():
    estimate = partloc.PoseEstimate((0.25, 0.0, 0.0), 0.5, 0.75)
    text = replace_answer(ENGLISH, estimate)
    assert '\n# {"translation": [0.25, 0.0, 0.0], "scale": 0.5, "confidence": 0.75}\n' in text
    assert replace_answer(text, estimate) == text
    with pytest.raises(ValueError, match="expected one line with a prediction, found 0"):
        replace_answer("", estimate)


# -- the project -------------------------------------------------------------------------------


def test_the_newest_change_is_of_the_version_of_the_project():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, flags=re.MULTILINE)[1] == partloc.__version__


def test_the_citation_can_be_read_and_names_the_licence():
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == "Apache-2.0"
    assert "version" not in citation  # it is set in pyproject.toml alone


def test_the_licence_is_of_code_and_weights():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "| license | Apache-2.0" in (ROOT / "docs/weights.md").read_text(encoding="utf-8")
