"""The models of a folder, and how processes divide them."""

import pytest
import torch
from toys import SINGLE_PROCESS

from partloc.data.layout import LayoutError
from partloc.distributed import DistributedContext
from partloc.inference.jobs import ModelJob, find_jobs, local_jobs


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
