"""Finds the commands in the documents, and checks each with the parser of its program.

A command stands in a code block or between backquotes. Nothing is run: a parser that accepts the
arguments ends the check.
"""

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from checkout import ROOT

from partloc.config import load_config

DOCUMENTS = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "benchmarks/README.md", "Makefile")
DOCUMENTS += tuple(sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")))
SEPARATORS = ("&&", "||", ";", "&")
# Nothing to check: a builtin of the shell, and programs of the system.
UNCHECKED = {"wait", ".", "apt", "nvidia-smi", "kill"}


class Accepted(BaseException):
    """A parser has accepted the arguments."""


# -- finding -----------------------------------------------------------------------------------


def code_lines(text: str) -> Iterator[str]:
    """The lines of all code blocks, fenced as bash or indented, and the code between backquotes.

    A line that ends with a backslash is joined with the next one.
    """
    text = text.replace("\\\n", " ")
    for fenced in re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        yield from fenced.splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in prose.splitlines():
        if line.startswith("    "):
            yield line.strip().removeprefix("$ ")
    for code in re.findall(r"`([^`]+)`", prose):
        code = " ".join(code.split())
        # A mere name, such as `dvc plots`, is no command.
        if len(code.split()) > 2 or code.split()[0] in ("make", "partloc"):
            yield code


def commands_in(document: str) -> list[tuple[str, ...]]:
    """The commands of known programs in a document, each once and as words."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if document == "Makefile":
        lines = iter(re.findall(r"^\t\$\(RUN\) (-m .*)", text, flags=re.MULTILINE))
        return [("python", *shlex.split(line.replace("$(VENV)", ".venv"))) for line in lines]
    found: dict[tuple[str, ...], None] = {}
    for line in code_lines(text):
        if line.split(" ")[0].split("=")[0] in (*CHECKS, "CUDA_VISIBLE_DEVICES"):
            found |= dict.fromkeys(split_line(line))
    return list(found)


def split_line(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line of a shell, without variables before them."""
    command: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    for word in [*lexer, ";"]:
        if word not in SEPARATORS:
            command += [word] if command or "=" not in word else []
            continue
        if command:
            yield tuple(command)
        command = []


# -- checking ----------------------------------------------------------------------------------


def require_accepted(main: Callable[[], object], name: str, arguments: list[str]) -> None:
    """Run `main` until its parser has accepted the arguments.

    Raises: SystemExit if the parser rejects them.
    """
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *found: object) -> None:
        original(parser, *found)
        raise Accepted

    with (
        patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        patch.object(sys, "argv", [name, *arguments]),
    ):
        try:
            main()
        except Accepted:
            return
    raise AssertionError(f"{name}: parses no arguments")


def check_partloc(arguments: list[str]) -> None:
    from partloc.__main__ import COMMANDS, MODULES

    if arguments in ([], ["COMMAND"], ["--version"]):
        return
    assert arguments[0] in COMMANDS, arguments[0]
    module = MODULES.get(arguments[0], arguments[0])
    main = importlib.import_module(f"partloc.commands.{module}").main
    require_accepted(main, arguments[0], arguments[1:])


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
    elif arguments[0] != "-m":
        stage = Path(arguments[0])
        assert (ROOT / stage).is_file() and stage.parts[0] == "stages", stage
        main = importlib.import_module(f"partloc.commands.{stage.stem}").main
        require_accepted(main, stage.stem, arguments[1:])
    elif arguments[1] in CHECKS:
        CHECKS[arguments[1]](arguments[2:])
    elif not arguments[1].endswith(".NAME"):
        module = importlib.import_module(arguments[1])
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{arguments[1]}.__main__")
        require_accepted(module.main, arguments[1], arguments[2:])


def check_dvc(arguments: list[str]) -> None:
    from dvc.cli import parse_args

    args = parse_args(arguments)
    for change in getattr(args, "set_param", None) or []:
        group, key = change.partition("=")[0].removeprefix("+").split(".")
        assert key in load_config(ROOT / "params.yaml").model_dump()[group], change


def check_torchrun(arguments: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(arguments)
    check_python([args.training_script, *args.training_script_args])


def check_tensorboard(arguments: list[str]) -> None:
    from tensorboard.plugins.core.core_plugin import CorePluginLoader

    parser = argparse.ArgumentParser()
    CorePluginLoader().define_flags(parser)
    parser.parse_args(arguments)


def check_make(arguments: list[str]) -> None:
    """Whether the targets exist; nothing is made."""
    targets = [word for word in arguments if "=" not in word]
    done = subprocess.run(
        ["make", "--dry-run", "--", *targets], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def check_pip(arguments: list[str]) -> None:
    action, *rest = arguments
    assert action == "install", action
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    for word in rest:
        if word.startswith("."):
            assert {*filter(None, word.strip(".[]").split(","))} <= extras.keys(), word
        elif not word.startswith("-"):
            assert (ROOT / word).is_file(), word


def check_files(arguments: list[str]) -> None:
    """The files that a tool of development is given."""
    for word in arguments:
        assert "/" not in word or (ROOT / word).exists(), word


def check_git(arguments: list[str]) -> None:
    assert arguments[0] in ("checkout", "diff", "init", "clone"), arguments
    check_files(arguments[1:])
    assert all((ROOT / word).is_file() for word in arguments if word.endswith(".yaml"))


def check_ruff(arguments: list[str]) -> None:
    assert arguments[0] in ("check", "format"), arguments
    assert shutil.which("ruff", path=str(Path(sys.executable).parent)), "ruff is not installed"


CHECKS: dict[str, Callable[[list[str]], None]] = {
    **{"partloc": check_partloc, "python": check_python, "python3": check_python},
    **{"dvc": check_dvc, "torchrun": check_torchrun, "tensorboard": check_tensorboard},
    **{"make": check_make, "pip": check_pip, "git": check_git, "ruff": check_ruff},
    **{"pytest": check_files, "mypy": check_files, "venv": lambda _: None},
    **{name: lambda _: None for name in UNCHECKED},
}
