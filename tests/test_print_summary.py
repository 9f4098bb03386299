"""What a command prints at its end: `partloc.cli.print_summary`."""

from pathlib import Path

from partloc.cli import MAX_SUMMARY_LINES, print_summary


def test_a_summary_goes_to_stderr_and_names_the_results(capsys):
    print_summary("two lines\nof numbers", Path("a"), Path("b/c"))
    assert capsys.readouterr() == ("", "two lines\nof numbers\nwritten: a, b/c\n")


def test_a_long_summary_is_cut_to_the_screen(capsys):
    for length in (MAX_SUMMARY_LINES - 1, MAX_SUMMARY_LINES, 50):
        print_summary("\n".join(f"line {number}" for number in range(length)), Path("a"))
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == MAX_SUMMARY_LINES
        assert lines[0] == "line 0" and lines[-1] == "written: a"
    assert lines[-2] == "... and 40 more lines" and lines[-3] == "line 9"
