"""Messages for the person at the keyboard: safe to print, and a sentence alone wherever they are shown."""

import errno
import os
import pickle

import pytest
import torch

from dino_nb.errors import UserError, clean, did_you_mean, disk_errors, explain, printable


def test_user_error_text_is_safe_to_print_and_bounded():
    text = str(UserError("bad\x1b[2J name \ud800\n\tsecond\r line " + "x" * 10**6 + "\n" * 10**5))
    assert "\x1b" not in text and "\r" not in text and text.encode() and len(text) < 50_000
    assert text.split("\n")[1].startswith("    second\\r line x") and "more lines" in text
    assert str(UserError("a\nb")) == "a\nb" == str(pickle.loads(pickle.dumps(UserError("a\nb"))))


def test_printable_is_one_line_of_limited_length():
    assert printable("a\nb\x07") == "a\\nb\\x07" and printable("é 图") == "é 图"
    assert printable("x" * 300, 10) == "x" * 9 + "…" and clean("a\tb\n\x1b") == "a    b\n\\x1b"


@pytest.mark.parametrize("word", ["dino-4scale-r50-13ep", "dino-4scale-r50-12epp", "DINO-4scale-r50-12"])
def test_did_you_mean_offers_what_begins_most_like_the_word(word):
    names = [f"dino-{s}-{e}ep" for s in ("4scale-swin-l", "5scale-r50", "4scale-r50") for e in (36, 33, 24, 12)]
    assert did_you_mean(word, names) == " Did you mean 'dino-4scale-r50-12ep'?"


def test_did_you_mean_offers_nothing_that_is_far_and_several_if_asked():
    assert did_you_mean("zebra", ["train", "val"]) == "" == did_you_mean("x" * 10**6, ["x"])
    assert did_you_mean("lr_dorp", ["lr_drop", "lr"]) == " Did you mean 'lr_drop'?"
    assert did_you_mean("vale", ["val", "vales"], n=2) == " Did you mean 'vales' or 'val'?"


@pytest.mark.parametrize(
    "code, words",
    [
        (errno.EROFS, "its disk is read-only"),
        (errno.ENOSPC, "its disk is full"),
        (errno.EACCES, "its permissions forbid it"),
        (errno.ENAMETOOLONG, "a longer name than its disk allows"),
        (errno.ENOENT, "there is no file or folder"),
        (errno.ENOTDIR, "a part of its path is a file"),
        (errno.EDQUOT, "quota"),
        (9999, "cannot be read or written: odd {reason}"),
    ],
)
def test_os_errors_become_sentences_that_name_the_file(code, words):
    text = explain(OSError(code, "odd {reason}" if code == 9999 else os.strerror(code), "/data/\x1bx"))
    assert words in text and "/data/\\x1bx" in text and text.endswith(".")


def test_disk_errors_as_a_decorator_and_without_a_file_name(tmp_path):
    @disk_errors()
    def read(path):
        return path.read_text()

    with pytest.raises(UserError, match=r"there is no file or folder .*missing\.") as error:
        read(tmp_path / "missing")
    assert isinstance(error.value.__cause__, FileNotFoundError)
    with pytest.raises(UserError, match="a file cannot be read or written: cannot identify"), disk_errors():
        raise OSError("cannot identify")


class Unreadable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("inner")
        except OSError as error:
            raise UserError("there is no image file a.jpg.\nSecond line.") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_user_error_out_of_a_loader_worker_is_its_sentence_alone(workers):
    with pytest.raises(UserError) as error:
        list(torch.utils.data.DataLoader(Unreadable(), num_workers=workers))
    assert str(error.value) == "there is no image file a.jpg.\nSecond line."


def test_user_error_in_a_notebook_is_its_sentence_in_the_words_of_the_notebook():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.io import capture_output

    shell = InteractiveShell.instance()
    shell.run_cell("OVERWRITE = False")
    with capture_output() as shown:
        shell.run_cell(
            "from dino_nb.errors import UserError\n"
            "raise UserError('x exists: say --overwrite or --box-format xyxy, not a--b; --fix does.')"
        )
    text = shown.stdout + shown.stderr
    assert text.strip() == "Error: x exists: say OVERWRITE or box_format= xyxy, not a--b; fix_dataset does."
