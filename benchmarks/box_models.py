"""A small data set of models made of coloured boxes, drawn without a renderer."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from partloc.data.table import PairTable

PARTS_PER_WHOLE = 4


def write_box_models(folder: Path, side_px: int, num_models: int, seed: int = 0) -> PairTable:
    """Write models of PARTS_PER_WHOLE different parts under `folder`; return their table."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_models):
        model = f"model-{number}"
        (folder / model).mkdir(parents=True)
        whole = np.full((side_px, side_px, 3), 255, np.uint8)
        for part in range(PARTS_PER_WHOLE):
            color, scale = rng.integers(0, 200, 3), rng.uniform(0.2, 0.5)
            translation = rng.uniform(-0.25, 0.25, 3)
            half = round(side_px * scale / 2)
            right, down = (round(side_px * (0.5 + x)) for x in translation[:2])
            whole[down - half : down + half, right - half : right + half] = color
            alone = np.full_like(whole, 255)
            margin = side_px // 8
            alone[margin:-margin, margin:-margin] = color
            path = f"{model}/{model}-{part}.png"
            Image.fromarray(alone).save(folder / path)
            rows.append((model, str(part), path, *translation, scale, part))
        Image.fromarray(whole).save(folder / model / f"{model}-whole.png")
    columns = ["model", "part", "part_path", "tx", "ty", "tz", "scale", "twin_group"]
    table = pd.DataFrame(rows, columns=columns)
    table["whole_path"] = table.model + "/" + table.model + "-whole.png"
    for kind in ("whole", "part"):
        contents = [(folder / path).read_bytes() for path in table[f"{kind}_path"]]
        table[f"{kind}_sha256"] = [hashlib.sha256(content).hexdigest() for content in contents]
    return PairTable(table, folder)
