"""The command line as a whole: verbs, exit codes, help. What each verb does is tested with its room."""

import importlib
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dino_nb import __version__
from dino_nb.cli import VERBS, info, main
from dino_nb.cli.parser import Parser
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


def parsed(verb, *arguments):
    """The arguments of a verb, as its ``run`` gets them."""
    module = importlib.import_module(f"dino_nb.cli.{VERBS[verb][0]}")
    parser = Parser(verb, "")
    module.add_arguments(parser)
    return parser.parse(arguments)


@pytest.mark.parametrize("verb", VERBS)
def test_flags_of_every_verb_are_known_with_dashes_and_underscores(verb):
    module = importlib.import_module(f"dino_nb.cli.{VERBS[verb][0]}")
    parser = Parser(verb, "")
    module.add_arguments(parser)
    for flag in [flag for flag in parser._option_string_actions if flag.startswith("--")]:
        both = ["--" + flag[2:].replace("-", "_"), "--" + flag[2:].replace("_", "-")]
        one, other = (parser._spelled([spelling, "1"]) for spelling in both)
        assert one == other and one[0].startswith(flag)


def test_flags_that_are_mistyped_are_corrected(capsys):
    assert main(["train", "COCODIR", "--bach-size", "4"]) == 2
    assert "what is '--bach-size'? Did you mean '--batch_size'?" in capsys.readouterr().err


def test_flag_amp_does_not_swallow_the_data_set():
    args = parsed("train", "--amp", "COCODIR", "BACKBONE")
    assert (args.amp, args.cocodir, args.backbone_dir) == ("auto", "COCODIR", "BACKBONE")
    args = parsed("train", "--amp", "fp32", "COCODIR")
    assert (args.amp, args.cocodir) == ("fp32", "COCODIR")
    assert parsed("train", "--amp=bf16").amp == "bf16"
    assert parsed("train", "COCODIR").amp is None


def test_flag_options_ends_at_the_first_argument_without_an_equals_sign():
    args = parsed("train", "--options", "lr_drop=11", "epochs=12", "COCODIR", "--options", "seed=3")
    assert args.options == ["lr_drop=11", "epochs=12", "seed=3"] and args.cocodir == "COCODIR"
    with pytest.raises(SystemExit):
        parsed("train", "COCODIR", "--options")


def test_flag_of_a_setting_goes_before_the_same_setting_among_options(monkeypatch):
    from dino_nb.cli import train

    given = {}
    monkeypatch.setattr(
        train, "finetune", lambda *args, **options: given.update(options) or SimpleNamespace(stopped="")
    )
    assert main(["train", "COCODIR", "--epochs", "3", "--options", "epochs=4", "lr_drop=2", "dn_scalar=50"]) == 0
    assert given["epochs"] == 3 and given["lr_drop"] == "2" and given["model_options"] == {"dn_number": "50"}


def test_errors_of_the_disk_are_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(info, "run", lambda args: (tmp_path / "gone" / "x").read_bytes())
    assert main(["info"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "gone" in error and "no file" in error


def test_a_reader_that_has_seen_enough_ends_the_command_quietly():
    lines = "import sys, dino_nb.cli as c; from dino_nb.cli import info;"
    script = lines + "info.run = lambda args: [print('x' * 99) for _ in range(99999)] and 0; sys.exit(c.main(['info']))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.read(100)
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait(60) == 128 + signal.SIGPIPE


def test_sigterm_leaves_no_temporary_files(tmp_path):
    script = (
        "import sys, time, dino_nb.cli as c; from dino_nb.cli import info; from dino_nb.files import atomic_path\n"
        "def run(args):\n"
        "    with atomic_path(sys.argv[1]):\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "info.run = run\n"
        "sys.exit(c.main(['info']))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "result.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_bench_of_a_checkpoint_says_times_ap_and_conditions(sample_coco, tmp_path, capsys):
    command = ["bench", "dino-tiny", str(sample_coco), "--device", "cpu", "--images", "2"]
    assert main([*command, "--variants", "fp32", "bf16", "predict", "--json", str(tmp_path / "b.json")]) == 0
    header, fp32, half, predict, conditions = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["variant", "images/s"] and header.endswith("AP")
    assert fp32.split()[0] == "fp32" and half.split()[0] == "bf16"
    assert predict.split()[0] == "predict" and predict.split()[2:6] == ["-"] * 4  # from file to result
    assert "checkpoint dino-tiny" in conditions and "threads" in conditions and torch.__version__ in conditions
    told = json.loads((tmp_path / "b.json").read_text())
    assert [row["variant"] for row in told["results"]] == ["fp32", "bf16", "predict"]
    assert told["results"][2]["p50_ms"] > 0
    for row in told["results"][:2]:
        stages = [row[f"{stage}_ms"] for stage in ("read", "resize", "network", "select")]
        assert min(stages) > 0 and row["p50_ms"] <= row["p99_ms"] and 0 <= row["AP"] <= 1
    assert told["conditions"]["images"] == 2 and told["conditions"]["batch_size"] == 1


def test_bench_refuses_what_cannot_be_timed(capsys):
    assert main(["bench", "dino-tiny", "--device", "cpu", "--variants", "fp16"]) == 1
    assert "fp16 is for GPUs" in capsys.readouterr().err
    assert main(["bench", "dino-tiny", "--images", "0"]) == 1
    assert "--images must be at least 1, not 0" in capsys.readouterr().err
