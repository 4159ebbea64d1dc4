"""`python -m experiments [run | study | report | choose | ...]`."""

import sys

from experiments.cli import commands
from experiments.execution import hosts

if __name__ == "__main__":
    hosts.end(commands.main(sys.argv[1:]))
