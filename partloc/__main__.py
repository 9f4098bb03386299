"""`python -m partloc COMMAND`, installed as `partloc COMMAND`."""

import sys
from importlib import import_module

COMMANDS = {
    "infer": "predict where parts belong",
    "index": "list the usable samples of a folder of pictures",
    "split": "divide the models among training, validation and test",
    "train": "train, or resume an interrupted training",
    "evaluate": "measure the model on a split",
    "demo": "render the demo data set",
    "pretrain": "train the weights that come with the code",
}


def usage() -> str:
    lines = [f"  {name:10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: partloc COMMAND ...   (partloc COMMAND --help)", "", *lines])


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in (None, "-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [f"partloc {name}"]
    import_module(f"partloc.commands.{name}").main()


if __name__ == "__main__":
    main()
