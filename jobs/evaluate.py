"""Measuring one model as a Ray job.

    ray job submit --working-dir . -- python -m jobs.evaluate --model MODEL --problems URI

Further options are those of `sphere evaluate`.
"""

import argparse

from sphere_ray import cli


def main() -> None:
    """Do what `sphere evaluate` does."""
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="model directory or name")
    options, rest = parser.parse_known_args()
    cli.main(["evaluate", options.model, *rest])


if __name__ == "__main__":
    main()
