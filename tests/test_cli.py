"""The command line as a whole: verbs, exit codes, help. What each verb does is tested with its room."""

import importlib
import subprocess
import sys

import pytest

from dino_nb import __version__
from dino_nb.cli import VERBS, main
from dino_nb.errors import UserError


def test_no_verb_shows_the_overview(capsys):
    assert main([]) == 2
    overview = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == overview
    for verb, (_, summary) in VERBS.items():
        assert f"  {verb}" in overview and summary in overview


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_mistyped_verb_is_a_bad_command_line(capsys):
    assert main(["evla", "COCODIR"]) == 2
    assert "there is no command 'evla'. Did you mean 'eval'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    module = importlib.import_module(f"dino_nb.cli.{VERBS[verb][0]}")
    assert module.__doc__
    assert main([verb, "--help"]) == 0
    assert f"dino-nb {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_a_bad_command_line(verb, capsys):
    assert main([verb, "--no-such-option-anywhere"]) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "nowhere", "COCODIR"],
        ["eval", "nowhere", "dino-tiny"],
        ["train", "nowhere"],
        ["predict", "nowhere.pth", "nowhere.jpg"],
        ["export", "nowhere.pth"],
        ["zoo", "nowhere"],
    ],
)
def test_what_is_not_there_is_one_message_and_exit_1(command, tmp_path, monkeypatch, capsys, home):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"dino-nb {command[0]}: ") and "nowhere" in error
    assert "Traceback" not in error


def test_a_user_error_has_no_traceback_and_any_other_error_has_one(monkeypatch, capsys):
    from dino_nb.cli import info

    def fail(args, error):
        raise error

    monkeypatch.setattr(info, "run", lambda args: fail(args, UserError("the file x is empty.")))
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "dino-nb info: the file x is empty.\n"
    monkeypatch.setattr(info, "run", lambda args: fail(args, KeyError("a fault of ours")))
    with pytest.raises(KeyError):
        main(["info"])
    monkeypatch.setattr(info, "run", lambda args: fail(args, KeyboardInterrupt()))
    assert main(["info"]) == 130


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dino_nb", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no command 'nonsense'" in done.stderr
