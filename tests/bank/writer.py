"""Processes that add rows to a bank, for the tests of several and of killed writers."""

import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from made_up import SPACE, rows  # noqa: E402

from napari_medverse.bank import Bank  # noqa: E402


def share(uri: str, first: str) -> None:
    """Add thirty rows, three a commit."""
    bank = Bank.create(uri, SPACE)
    for start in range(int(first), int(first) + 30, 3):
        bank.add(rows(start, 3))
    bank.tidy()


def nurse(uri: str) -> None:
    """For each number read, start a child that adds rows from there until it is killed.

    Children are forks of a process that has imported everything, which saves the import's
    second for each; none of them inherits an open bank.
    """
    warnings.simplefilter("ignore", RuntimeWarning)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            add_for_ever(uri, int(line))
        os.waitpid(child, 0)
        print("dead", flush=True)


def add_for_ever(uri: str, number: int) -> None:
    os.write(1, f"child {os.getpid()}\n".encode())
    bank = Bank.create(uri, SPACE)
    while True:
        bank.add(rows(number, 1))
        os.write(1, f"{number}\n".encode())
        number += 1


if __name__ == "__main__":
    {"share": share, "nurse": nurse}[sys.argv[1]](*sys.argv[2:])
