"""Errors whose text is meant for the person at the keyboard."""

import difflib


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits with 1.
    """


def did_you_mean(word, choices, n=1):
    """``" Did you mean 'x'?"`` for a near-miss of ``word`` among ``choices``, else an empty string."""
    by_lower = {str(c).lower(): str(c) for c in choices}
    near = difflib.get_close_matches(str(word).lower(), list(by_lower), n=n, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(by_lower[m]) for m in near)}?" if near else ""
