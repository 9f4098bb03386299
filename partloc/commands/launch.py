"""Run a command in several processes on this machine, one for each GPU.

The same as `torchrun --standalone --nproc-per-node N`, except for the end: after a signal or an
error of a process the command's own message is the last one, and the exit status is its own.

    $ partloc launch train
    $ partloc launch --processes 8 infer --data-dir my/renders --output predictions
"""

import argparse
import logging
import os
import sys

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from partloc.system.cli import make_parser, positive_int, run_command

COMMANDS = ("train", "infer")  # those that share their work among processes


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, config=None)
    parser.add_argument(
        "--processes",
        type=positive_int,
        default=max(1, torch.cuda.device_count()),
        metavar="N",
        help="default: the number of GPUs, at least 1",
    )
    parser.add_argument("command", choices=COMMANDS, help="train or infer")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    return parser.parse_args()


def launch() -> None:
    args = parse()
    logging.disable(logging.ERROR)  # of torch's agent; not in the processes that it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torchrun sets, with a warning
    options = ["--standalone", "--nproc-per-node", str(args.processes), "--module", "partloc"]
    try:
        run(parse_args([*options, args.command, *args.arguments]))
    except SignalException as error:  # the processes received it, too, and have said so
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:  # the first process that failed has said why
        _, failure = error.get_first_failure()
        sys.exit(128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode)


def main() -> None:
    run_command(launch)
