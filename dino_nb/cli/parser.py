"""The parser of every verb: each flag is known with ``-`` and with ``_``, and a mistyped one is corrected."""

import argparse
from collections.abc import Sequence

from dino_nb.errors import did_you_mean

AMP = ("auto", "fp16", "fp32")
AMP_HELP = "precision on a GPU (default: half precision if it agrees with float32 on the first images)"
KEY_VALUE = "KEY=VALUE"  # the metavar of options that take several, up to the first argument without "="


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose flags may be spelled either way, and take no argument that is not theirs."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"dino-nb {verb}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments; exits with 2 and a message where they are wrong."""
        args, unknown = self.parse_known_args(self._spelled(list(arguments)))
        if unknown:
            near = did_you_mean(unknown[0], self._option_string_actions) if unknown[0].startswith("-") else ""
            self.error(f"what is {unknown[0]!r}?{near} ({self.prog} --help lists all)")
        return args

    def _spelled(self, arguments: list[str]) -> list[str]:
        """``arguments`` with every flag as it was declared, and bound to its values by ``=`` where it takes them."""
        flags = self._option_string_actions
        spellings = {flag.replace("-", "_"): flag for flag in flags if flag.startswith("--")}
        spelled: list[str] = []
        while arguments:
            token = arguments.pop(0)
            if token == "--":
                return [*spelled, token, *arguments]
            name, equals, value = token.partition("=")
            name = spellings.get(name.replace("-", "_"), name) if token.startswith("--") else name
            action = flags.get(name)
            if action is not None and not equals and action.metavar == KEY_VALUE:
                pairs = []
                while arguments and "=" in arguments[0] and not arguments[0].startswith("-"):
                    pairs.append(f"{name}={arguments.pop(0)}")
                spelled += pairs or [name]
            elif action is not None and not equals and action.nargs == "?" and action.choices:
                follows = arguments and arguments[0] in action.choices
                spelled.append(f"{name}={arguments.pop(0) if follows else action.const}")
            else:
                spelled.append(name + equals + value)
        return spelled


def add_options(parser: argparse._ActionsContainer, help: str) -> None:
    """Add ``--options KEY=VALUE ...``."""
    parser.add_argument("--options", action="append", default=[], metavar=KEY_VALUE, help=help)


def add_unused(parser: argparse._ActionsContainer) -> None:
    """Add the published flags that have no effect here."""
    for flag in ("--save_log", "--save_results", "--find_unused_params"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag in ("--dataset_file", "--note"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
