"""Memory and the number of open files are flat over 500 answers and over 100 epochs."""

from pathlib import Path

import psutil
from toys import make_untrained_model, noise_image

from benchmarks.torture.commands import one_block, run_in, small_config, write_project
from benchmarks.torture.runner import Property, scratch_folder
from partloc.inference.locator_api import Locator
from partloc.model.model_file import save_model
from partloc.training.trainer import Trainer

ANSWERS, EPOCHS = 500, 100
WARM_UP = 0.4  # fraction of the repetitions; libraries allocate caches at first
MAX_GROWTH_MB = 24.0


class Usage:
    """Records the memory and the open files of this process after each repetition."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.memory_mb: list[float] = []
        self.files: list[int] = []

    def record(self) -> None:
        self.memory_mb.append(self.process.memory_info().rss / 1e6)
        self.files.append(self.process.num_fds())

    def require_flat(self, repetitions: int) -> None:
        """Compares the end with the time after the warm-up."""
        assert len(self.files) == repetitions, f"{len(self.files)} of {repetitions}"
        first = round(WARM_UP * repetitions)
        tail = slice(-max(1, repetitions // 10), None)
        middle = slice(first, first + max(1, repetitions // 10))
        growth = min(self.memory_mb[tail]) - max(self.memory_mb[middle])
        assert growth < MAX_GROWTH_MB, f"memory grows by {growth:.1f} MB"
        more = max(self.files[tail]) - max(self.files[middle])
        assert more <= 0, f"{more} more open files"


def check_answers(seed: int, folder: Path, answers: int = ANSWERS) -> None:
    """One whole after the other, with parts read from files; images differ."""
    with scratch_folder(folder) as scratch:
        checkpoint, usage = scratch / "model.pth", Usage()
        save_model(checkpoint, make_untrained_model(), {})
        locator = Locator(checkpoint, "cpu")
        for number in range(answers):
            whole, part = scratch / "whole.png", scratch / "part.png"
            noise_image(seed + 2 * number).save(whole)
            noise_image(seed + 2 * number + 1).save(part)
            locator.locate(whole, part)
            usage.record()
        usage.require_flat(answers)


def check_epochs(seed: int, folder: Path, epochs: int = EPOCHS) -> None:
    usage, finish_epoch = Usage(), Trainer._finish_epoch

    def finish_and_record(trainer: Trainer, *args: object) -> None:
        finish_epoch(trainer, *args)  # type: ignore[arg-type]
        usage.record()

    with scratch_folder(folder) as scratch, one_block():
        project = write_project(scratch, small_config(num_epochs=epochs))
        Trainer._finish_epoch = finish_and_record  # type: ignore[assignment,method-assign]
        try:
            run_in(project, "train").require_success()
        finally:
            Trainer._finish_epoch = finish_epoch  # type: ignore[method-assign]
    usage.require_flat(epochs)


PROPERTIES = (
    Property("answers", "memory and open files are flat", check_answers, cases=1, weight=ANSWERS),
    Property("epochs", "memory and open files are flat", check_epochs, cases=1, weight=EPOCHS),
)
