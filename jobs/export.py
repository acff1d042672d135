"""Exporting the pairs of a run as a Ray job, where only the cluster sees the run directory.

    ray job submit --working-dir . -- python -m jobs.export --run RUN --format trl --output DIR

Further options are those of `sphere export`.
"""

import argparse

from sphere_ray import cli


def main() -> None:
    """Do what `sphere export` does."""
    parser = argparse.ArgumentParser(prog="python -m jobs.export", allow_abbrev=False)
    parser.add_argument("--run", required=True, help="directory of a run")
    options, rest = parser.parse_known_args()
    cli.main(["export", options.run, *rest])


if __name__ == "__main__":
    main()
