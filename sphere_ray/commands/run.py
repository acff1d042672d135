"""`sphere run`: the loop, with what listens to it and the page about it."""

import logging
from contextlib import suppress

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.errors import SphereError
from sphere_ray.evolution import evolve
from sphere_ray.redaction import redact
from sphere_ray.report.page import write_report
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.runs.directory import REPORT
from sphere_ray.trackers.feed import tracking

logger = logging.getLogger(__name__)


def run(settings: RunSettings, origin: str | None = None) -> RunSummary:
    """Run or continue the loop, with the trackers of the settings and a report at the end.

    `origin` is another run, whose finished steps count as made here (`sphere run --from RUN`).

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    return evolve.run(settings, origin, report=report_if_possible, tracking=tracking)


def report_if_possible(directory: str) -> None:
    """Write the report of a finished run; if that fails, warn: the run itself has not failed.

    An earlier report is then removed, for it tells of another state of the run.
    """
    try:
        write_report([directory])
    except Exception as error:
        logger.debug("the report failed", exc_info=True)
        with suppress(OSError):
            storage.remove(f"{directory}/{REPORT}")
        kind = "" if isinstance(error, SphereError) else f"{type(error).__name__}: "
        reason = redact(" ".join(f"{kind}{error}".split()))
        logger.warning(
            "the run is finished, but its report could not be written (%s); "
            "`sphere report %s` tries again",
            reason,
            directory,
        )


def results_in(run_dir: str) -> str:
    """Say where the results of a finished run are."""
    page = f"{run_dir}/{REPORT}"
    read = f"; read {page}" if storage.exists(storage.resolve(page)) else ""
    return f"results are in {run_dir}{read}"
