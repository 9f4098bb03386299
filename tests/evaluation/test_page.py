"""The visible shares that the report page shows the error by."""

from pathlib import Path

import pytest

from partloc.evaluation.page import _read_visible_shares


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,part\nm,p\n", "visible.csv: no column visible_share; found model, part"),
        ("model,part,visible_share\nm,p,1\nm,q,17\n", "model m, part q: visible_share '17'"),
        ("model,part,visible_share\nm,p,\n", "model m, part p: visible_share '', expected 0 to 1"),
    ],
)
def test_a_wrong_table_of_visible_shares_is_reported(tmp_path: Path, text: str, message: str):
    (tmp_path / "visible.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        _read_visible_shares(tmp_path / "visible.csv")
