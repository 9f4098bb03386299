"""The models of a folder, and how processes divide them."""

import pytest
import torch
from folders import write_folder
from toys import SINGLE_PROCESS

from partloc.config import DataConfig
from partloc.data.index import build_index
from partloc.data.layout import LayoutError
from partloc.distributed import DistributedContext
from partloc.inference.jobs import ModelJob, find_jobs, local_jobs, read_jobs
from partloc.system.files import write_table


def test_processes_get_consecutive_models_and_about_equally_many_parts():
    counts = [0, 3, 12, 1, 0, 4, 9, 2, 2, 7, 0]
    jobs = [ModelJob(f"{n:02d}", "w", [("p", "p")] * count) for n, count in enumerate(counts)]
    for world_size in (1, 2, 3, 16):
        divided = [
            local_jobs(jobs, DistributedContext(rank, world_size, torch.device("cpu")))
            for rank in range(world_size)
        ]
        assert [job for local in divided for job in local] == jobs
        num_parts = [sum(len(job.parts) for job in local) for local in divided]
        assert max(num_parts) <= sum(counts) / world_size + max(counts)
    assert local_jobs([jobs[0]], SINGLE_PROCESS) == [jobs[0]]  # no part at all


def test_extensions_may_be_in_capitals(data_dir):
    lamp = data_dir / "lamp"
    (lamp / "lamp-foot.png").rename(lamp / "lamp-foot.PNG")
    jobs = find_jobs(data_dir)
    assert jobs[0].parts == [("foot", "lamp/lamp-foot.PNG")]
    assert not any(job.skipped for job in jobs)


def test_the_error_for_a_folder_without_models_shows_the_layout(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(LayoutError, match="chair-whole.png"):
            find_jobs(folder)


@pytest.mark.parametrize("column", ["whole_path", "part_path"])
@pytest.mark.parametrize(
    "path",
    ["../x.png", "chair/../../x.png", "/tmp/x.png", "chair/..", "x.png", "", ".", "./x.png"],
)
def test_a_table_whose_paths_lead_out_of_the_data_folder_is_refused(tmp_path, column, path):
    table = build_index(DataConfig(data_dir=str(write_folder(tmp_path / "images")))).manifest
    write_table(tmp_path / "good.csv", table)
    assert len(read_jobs(tmp_path / "good.csv")) == 3
    table.loc[4, column] = path
    write_table(tmp_path / "bad.csv", table)
    with pytest.raises(ValueError, match=rf"bad.csv: row 6: {column} '{path}': expected FOLDER/"):
        read_jobs(tmp_path / "bad.csv")


def test_a_part_whose_prediction_would_have_too_long_a_name_is_skipped(data_dir, tmp_path):
    """The extension of a label is one byte longer than that of an image."""
    lamp = data_dir / "lamp"
    longest, long = ("x" * (255 - len("lamp-.png") - shorter) for shorter in (0, 1))
    for part in (longest, long):
        (lamp / f"lamp-{part}.png").write_bytes((lamp / "lamp-foot.png").read_bytes())
    job = find_jobs(data_dir)[0]
    assert [part for part, _ in job.parts] == ["foot", long]
    (skipped,) = job.skipped
    assert (skipped.reason, skipped.file) == ("unusable name", f"lamp/lamp-{longest}.png")
    assert skipped.detail == "the file of its prediction needs 256 bytes, the limit is 255"
