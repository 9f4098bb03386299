"""Ways to damage the file of a training state; each is a function of its path."""

import os
import shutil

from partloc.system.files import checksum_path, save_tensors, write_checksum
from partloc.training.run_folder import RunFolder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_bit(path, bit=1):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= bit
    path.write_bytes(data)


def replace_by_directory(path):
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_foreign_file(path):
    save_tensors(path, {"epoch": 2, "model": {}})
    write_checksum(path)


def replace_by_other_step(path):
    """An older state, copied with its checksum."""
    older = min(path.parent.glob("state-*.pth"))
    for suffix in (".pth", ".sha256"):
        shutil.copy(older.with_suffix(suffix), path.with_suffix(suffix))


def replace_by_other_training(path):
    other = RunFolder(path.parent, "other training")
    step = int(path.stem.removeprefix("state-"))
    other.save_state(step, {"step": step})
    for suffix in (".pth", ".sha256"):
        shutil.copy((other.path / path.name).with_suffix(suffix), path.with_suffix(suffix))


def on_checksum(damage):
    def damage_checksum(path):
        damage(checksum_path(path))

    damage_checksum.__name__ = f"checksum_{damage.__name__}"
    return damage_checksum


def delete(path):
    path.unlink()


def empty(path):
    path.write_text("")


def flip_high_bit(path):
    flip_bit(path, 128)


FILE_DAMAGES = (delete, empty, truncate, flip_bit, flip_high_bit)
KIND_DAMAGES = (replace_by_directory, replace_by_pipe)
DAMAGES = (
    *FILE_DAMAGES[1:],
    *KIND_DAMAGES,
    *map(on_checksum, (*FILE_DAMAGES, *KIND_DAMAGES)),
    *(replace_by_foreign_file, replace_by_other_step, replace_by_other_training),
)
