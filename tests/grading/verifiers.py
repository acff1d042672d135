"""Verifiers as a user writes them; `letter` is the worked example. Run in worker processes."""

import os
import re
import signal
import sys
import time
from pathlib import Path

_LETTER = re.compile(r"\b([A-E])\b(?!.*\b[A-E]\b)", re.DOTALL)


held: list[bytearray] = []


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
        case ["die", path, ending]:
            lost = Path(path)
            if len(lost.read_text()) < int(gold):
                lost.write_text(lost.read_text() + "x")
                os.kill(os.getpid(), getattr(signal, ending))
    return True


def greedy(response: str, gold: str) -> bool | str | None:
    """Takes what the response asks for."""
    match response.split():
        case ["burn", seconds]:
            until = time.process_time() + float(seconds)
            while time.process_time() < until:
                pass
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["eat"]:
            held.append(bytearray(2**40))
        case ["hoard", mib]:
            held.append(bytearray(int(mib) * 2**20))
        case ["pid", path]:
            Path(path).write_text(str(os.getpid()))
        case _:
            return troubled(response, gold)
    return True


def same(response: str, gold: str) -> bool:
    return response == gold


def one_argument(response: str) -> bool:
    return bool(response)


no_function = 5
