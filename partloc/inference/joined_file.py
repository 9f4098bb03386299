"""One file that several processes write together."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from partloc.distributed import DistributedContext
from partloc.system.files import name_file_in_errors, open_atomic


@contextmanager
def joined_file(
    path: Path, make_header: Callable[[int], bytes], context: DistributedContext
) -> Iterator[Callable[[bytes], None]]:
    """A file of a header and what all processes append, in the order of their ranks.

    Each process appends to a file of its own beside `path`. The main process joins these when all
    have left the block without an error; otherwise an earlier file at `path` stays. Missing folders
    are created.

    Args:
        make_header: called with the size of everything that was appended, in bytes.
    Yields: a function that appends; it raises OSError naming `path`, e.g. when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = [path.with_name(f"{path.name}.{rank}") for rank in range(context.world_size)]
    own_piece = pieces[context.rank]

    def append(data: bytes) -> None:
        with name_file_in_errors(path), own_piece.open("ab") as file:
            file.write(data)

    try:
        own_piece.unlink(missing_ok=True)  # of a process that was killed
        append(b"")
        yield append
        context.barrier()  # until all pieces are complete
        if context.is_main:
            with open_atomic(path) as file:
                file.write(make_header(sum(piece.stat().st_size for piece in pieces)))
                for piece in pieces:
                    with piece.open("rb") as source:
                        shutil.copyfileobj(source, file)
        context.barrier()  # until they are joined
    finally:
        own_piece.unlink(missing_ok=True)
