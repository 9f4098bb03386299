"""Two processes under torchrun write the same files as one process."""

import shutil

from toys import ROOT, TORCHRUN, run_python


def test_two_processes_write_the_same_bytes_as_one(data_dir, checkpoint, tmp_path):
    shutil.copytree(data_dir / "lamp", data_dir / "lampe")
    for image in (data_dir / "lampe").iterdir():
        image.rename(image.with_name(image.name.replace("lamp-", "lampe-")))
    for damaged in ("lamp/lamp-foot.png", "stühle-1.5/stühle-1.5-part-4.png"):
        (data_dir / damaged).write_bytes(b"text")
    stage = (ROOT / "stages/infer.py", "--data-dir", data_dir, "--checkpoint", checkpoint)
    one = run_python(tmp_path, *stage, "--output", "one")
    two = run_python(tmp_path, *TORCHRUN, *stage, "--output", "two")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    single, distributed = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert len(single) == 5 + 10 and single == distributed
    assert two.stderr.count("10 parts of 2 models predicted") == 1
    assert "2 skipped: unreadable image; e.g. lamp/lamp-foot.png" in two.stderr
