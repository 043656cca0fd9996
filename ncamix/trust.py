"""Whether code that comes with others' files may run: never, unless the user says `--trust`.

A pickle is a program: reading one can run anything. What ncamix itself writes needs no trust. The
answer holds for this process and all that it starts.
"""

from __future__ import annotations

import os

_VARIABLE = "NCAMIX_TRUST"

TRUST_HELP = (
    "Let files that others made run code of their own where they cannot be read without it: "
    "pickled columns of data sets, and checkpoints that hold more than numbers and text. "
    "Otherwise they are refused. NCAMIX_TRUST=1 in the environment says so to every command."
)

TRUST_IT = "if you trust whoever made it: ncamix run --trust, or NCAMIX_TRUST=1 before any command"


def trusted() -> bool:
    """Whether the user trusts the code in the files that this run reads."""
    return os.environ.get(_VARIABLE) == "1"


def trust_files() -> None:
    """Trust it, from now on."""
    os.environ[_VARIABLE] = "1"
