"""Entry point of `python -m partloc COMMAND` and of the installed program `partloc COMMAND`."""

import sys

import partloc
from partloc.system.cli import USER_ERROR_STATUS, exit_on_signals, load_command, run_command

COMMANDS = {
    "infer": "predict the poses of parts",
    "demo": "open a page in the browser: drop a whole and parts, see them placed",
    "export": "write the network behind the encoder as an ONNX file",
    "doctor": "check whether this machine and the data are ready for training",
    "index": "list the usable samples of a folder of images",
    "split": "divide the models into training, validation and test",
    "train": "train a model, or resume a training",
    "launch": "run train or infer in several processes, one for each GPU",
    "evaluate": "measure a model on a split",
    "render": "render the demo data set",
    "pretrain": "train the weights that come with the package",
}

# Modules in partloc/commands that another command has the name of: `demo` is a stage, too.
MODULES = {"demo": "web", "render": "demo"}


def usage() -> str:
    lines = [f"  {name:10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: partloc COMMAND ...   (partloc COMMAND --help)", "", *lines])


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in (None, "-h", "--help"):
        run_command(lambda: print(usage()))
    elif name == "--version":
        run_command(lambda: print(f"partloc {partloc.__version__}"))
    elif name not in COMMANDS:
        print(f"error: unknown command {name!r}\n{usage()}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)
    else:
        exit_on_signals()
        sys.argv[:2] = [f"partloc {name}"]
        load_command(MODULES.get(name, name))()


if __name__ == "__main__":
    main()
