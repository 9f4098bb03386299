"""Labels are validated; an error states its reason, the value found and the value expected.

Every reason is also tested with a whole folder, in test_index.
"""

import pytest
from folders import make_label, nested_label, write_label

from partloc.data.labels import read_label
from partloc.data.layout import SampleError


def read(folder, **fields):
    """Read the label of the part `a` with changed fields."""
    write_label(folder, "a", make_label() | fields)
    return read_label(folder / f"{folder.name}-a.json", folder.name, "a")


def test_values_may_exceed_their_range_by_the_tolerance(tmp_path):
    assert read(tmp_path, translation=[0.54, 0, 0])[0][0] == 0.54
    assert read(tmp_path, scale=[1.04] * 3)[0][3] == 1.04
    with pytest.raises(SampleError, match=r"0\.56.*expected within \[-0\.5, 0\.5\]") as caught:
        read(tmp_path, translation=[0.56, 0, 0])
    assert caught.value.reason == "translation out of range"
    with pytest.raises(SampleError, match="scale 1.06, expected at most 1") as caught:
        read(tmp_path, scale=[1.06] * 3)
    assert caught.value.reason == "scale above 1"


def test_a_byte_order_mark_integers_and_the_negative_quaternion_are_accepted(tmp_path):
    path = tmp_path / "m-a.json"
    text = '{"translation": [0, 0, 0], "rotation": [-1.0, 0, 0, 0], "scale": [1, 1, 1]}'
    path.write_text(text, encoding="utf-8-sig")
    assert read_label(path, "m", "a") == ((0.0, 0.0, 0.0, 1.0), [])


def test_irregularities_that_do_not_affect_the_pose_are_warnings(tmp_path):
    label, warnings = read(tmp_path, rotation=[0, 1, 0, 0], model_name="other", part_name="b")
    assert label == read(tmp_path)[0]
    assert warnings == [
        ("non-identity rotation", "rotation [0, 1, 0, 0], treated as [1, 0, 0, 0]"),
        (
            "label names a different part",
            f"model_name 'other', expected {tmp_path.name!r} from the file name",
        ),
        ("label names a different part", "part_name 'b', expected 'a' from the file name"),
    ]


def test_a_label_of_any_depth_is_refused_with_a_short_detail(tmp_path):
    """Also one that is parsed, but too deep to be shown in a message."""
    path = tmp_path / "m-a.json"
    for depth in [*range(1, 1100, 50), *range(900, 1000)]:
        path.write_bytes(nested_label(depth))
        with pytest.raises(SampleError) as caught:
            read_label(path, "m", "a")
        assert caught.value.reason in ("wrong length", "malformed JSON")
        assert len(str(caught.value)) < 150


def test_the_error_for_a_key_that_occurs_twice_names_it(tmp_path):
    path = tmp_path / "m-a.json"
    path.write_text('{"scale": [1, 1, 1], "scale": [0.5, 0.5, 0.5]}')
    with pytest.raises(SampleError, match="the key 'scale' occurs twice"):
        read_label(path, "m", "a")
