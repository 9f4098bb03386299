"""Writes the page: the template with its data, its scripts and the libraries that draw."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from partloc.inference.prediction_files import ModelInfo
from partloc.pose import RIGHT_TOLERANCE
from partloc.report_page.case import Case, case_record
from partloc.report_page.images import PageImages
from partloc.system.files import open_atomic

MAX_BYTES = 4_900_000  # of the page
FOLDER = Path(__file__).parent
PAGE_FILE = "report.html"


class Figure(NamedTuple):
    """A headline figure, as text; baseline, interval and goal may be empty."""

    label: str
    value: str
    baseline: str = ""
    interval: str = ""
    goal: str = ""


class Content(NamedTuple):
    """Of a page. charts: name of a chart -> its records, see report.js. num_samples: of the whole
    run, of which `cases` may be a selection."""

    title: str
    cases: Sequence[Case]
    num_samples: int
    figures: Sequence[Figure] = ()
    charts: dict[str, Any] = {}


def write_page(
    path: Path, content: Content, info: ModelInfo, data_dir: Path, max_pixels: int
) -> None:
    """Write the page as one file without links, at most MAX_BYTES long unless images are huge.

    Raises: ImageError if an image of a case cannot be read.
    """
    images = PageImages(
        [case.whole_path for case in content.cases],
        [case.part_path for case in content.cases],
        data_dir,
        max_pixels,
    )
    data = {
        "cases": [
            case_record(case, info)
            | {"images": [images.index[case.whole_path], images.index[case.part_path]]}
            for case in content.cases
        ],
        "charts": content.charts,
        "tolerance": RIGHT_TOLERANCE,
        "camera": _camera_record(info),
    }
    without_images = _render(content, data | {"images": []})
    page = _render(content, data | {"images": images.uris(MAX_BYTES - len(without_images))})
    with open_atomic(path) as file:
        file.write(page)


def _camera_record(info: ModelInfo) -> dict[str, Any] | None:
    """What the page needs to draw in the view of the images, in whole-model units."""
    if info.camera is None:
        return None
    right, down, forward = info.camera.axes.tolist()
    return {
        "right": right,
        "down": down,
        "forward": forward,
        "image_scale": info.camera.image_scale.item(),
        "inverse_distance": info.camera.inverse_distance.item(),
    }


def _render(content: Content, data: dict[str, Any]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": True,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    text = environment.get_template("template.html").render(
        content=content, data=data, libraries=_libraries(), read=_read
    )
    return text.encode()


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _libraries() -> dict[str, str]:
    """The scripts by name. Vega is in the template of DVC's plots, so that there is one copy."""
    plots = _read("libraries/dvc_plots.html")
    scripts = dict(re.findall(r'<script id="([\w-]+)">\n(.*?)\n</script>', plots, re.DOTALL))
    three = _read("libraries/three.min.js")
    return {"vega": scripts["vega"], "vega-lite": scripts["vega-lite"], "three": three}
