"""Training a process reward model as a Ray job, from what a run recorded.

    ray job submit --working-dir . -- python -m jobs.train_prm --run RUN

Further options are those of `sphere train-prm`. Submit the same line again to continue it.
"""

import argparse

from sphere_ray import cli


def main() -> None:
    """Do what `sphere train-prm` does."""
    parser = argparse.ArgumentParser(prog="python -m jobs.train_prm", allow_abbrev=False)
    parser.add_argument("--run", required=True, help="directory of a run")
    options, rest = parser.parse_known_args()
    cli.main(["train-prm", options.run, *rest])


if __name__ == "__main__":
    main()
