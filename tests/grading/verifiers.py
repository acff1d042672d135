"""Verifiers as a user writes them; `letter` is the worked example. Run in worker processes."""

import os
import re
import signal
import sys
from pathlib import Path

_LETTER = re.compile(r"\b([A-E])\b(?!.*\b[A-E]\b)", re.DOTALL)


def letter(response: str, gold: str) -> bool | str:
    """Multiple choice: the last letter of A to E that the response names."""
    found = _LETTER.search(response)
    return "no_answer" if found is None else found[1] == gold


def troubled(response: str, gold: str) -> bool | str | None:
    """Does what the response asks for."""
    sys.stdout.write("printed text is no reply")
    match response.split():
        case ["hang"]:
            while True:
                pass
        case ["raise", *words]:
            raise ValueError(" ".join(words))
        case ["exit"]:
            os._exit(3)
        case ["return", word]:
            return word
        case ["unknown"]:
            return None
        case ["die", path]:
            deaths = Path(path)
            if len(deaths.read_text()) < int(gold):
                deaths.write_text(deaths.read_text() + "x")
                os.kill(os.getpid(), signal.SIGKILL)
    return True


def one_argument(response: str) -> bool:
    return bool(response)


no_function = 5
