"""Ray job: train a process reward model on what a run recorded; the same as `sphere train-prm`."""

import argparse
from collections.abc import Sequence

from sphere_ray import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the arguments of this job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    overrides = [part for override in options.set for part in ("--set", override)]
    cli.main(["train-prm", options.run, *overrides])


if __name__ == "__main__":
    main()
