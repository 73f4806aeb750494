"""`python -m bearward`: runs the program in place of this process."""

import os
import sys

from ._find_bin import find_bin

if __name__ == "__main__":
    program = find_bin()
    os.execv(program, [program, *sys.argv[1:]])
