"""The whole loop as a Ray job.

    ray job submit --working-dir . -- python -m jobs.run --config jobs/configs/smoke.yaml

Further options are those of `sphere run`. Submit the same line again to continue a stopped job.
`ray job stop` kills after 3 seconds unless the job's runtime environment sets
RAY_JOB_STOP_WAIT_TIME_S.
"""

import argparse

from sphere_ray import cli


def main() -> None:
    """Do what `sphere run` does."""
    parser = argparse.ArgumentParser(prog="python -m jobs.run", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file")
    options, rest = parser.parse_known_args()
    cli.main(["run", options.config, *rest])


if __name__ == "__main__":
    main()
