"""CPU of a request and of an event under a model guard and a token limit, beside those without; and of a request
with a budget that survives a restart, beside one with the same limits alone.

Each figure is the median ratio of paired rounds of the same binary with two configurations.
"""

import argparse
import functools
import pathlib
import tempfile

import loads
from curves import compared, report
from subjects import Bearward, Origin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bearward-bench-") as name:
        directory = pathlib.Path(name)
        origin = Origin(directory, [0])
        subjects = {name: Bearward(name, directory, origin, 1, [1], guards=name == "guarded") for name in ("plain", "guarded")}
        kept = Bearward("kept", directory, origin, 1, [1], guards=True, kept=True)
        try:
            with_state = {"guarded": subjects["guarded"], "kept": kept}
            report("chat request of 1 KiB, with a budget and state", compared(with_state, origin, rounds, **loads.CHAT))
            report("chat request of 1 KiB", compared(subjects, origin, rounds, **loads.CHAT))
            events = functools.partial(loads.events, command="chat")
            report("event of 64 streams", compared(subjects, origin, rounds, load=events))
        finally:
            for subject in [*subjects.values(), kept]:
                subject.end()
            origin.end()


if __name__ == "__main__":
    main()
