"""Every error sphere_ray raises on purpose.

SphereError                      base; its text is one sentence for the person at the terminal
|- UserError                     the user can fix it: wrong input; exit code 2
|  |- ConfigError                configuration: unknown key, bad value, contradiction
|  |- ProblemSourceError         a problem source that cannot be read at all
|  |- ModelError                 a model directory or name that cannot be served or trained
|  |- PlacementError             the cluster is smaller than what the configuration asks for
|  |- AddressError               no Ray cluster or dashboard answers where one was named
|  |- JobError                   a job that is not there, or cannot be submitted now
|  `- RunDirectoryError          a run directory that cannot be used, or is damaged
|- RowError                      one problem failed: its row records the error, the run goes on
|  |- DeadlineExceededError      a request or a problem ran out of time
|  `- RequestError               an engine refused or lost one request for good
`- FatalError                 the run cannot go on; exit code 1
   |- EngineError                an engine pool is gone, or answered against its contract
   |- StorageError               a disk is full, read-only or lost
   |- GraderError                the grader failed its self-test or lost its workers
   |- ReleaseError               engines did not give their memory back
   `- TrainingError              a training phase failed
      |- TooFewLabelsError       too few problems with scored steps; the reward source stays
      `- CollapseError           the guard stopped training; the policy stays
"""

from sphere_ray.redaction import redact


class SphereError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one clear sentence without secrets."""

    exit_code = 1

    def __init__(self, *arguments: object) -> None:
        """Hide the secrets of URLs that the text names."""
        super().__init__(*(redact(a) if isinstance(a, str) else a for a in arguments))


class UserError(SphereError):
    """Something the user can fix: says what was wrong, where, and what to do."""

    exit_code = 2


class ConfigError(UserError):
    """The configuration cannot be used."""


class ProblemSourceError(UserError):
    """A problem source cannot be read at all (single bad rows are rejected, not raised)."""


class ModelError(UserError):
    """A model cannot be found, loaded or used for its role."""


class PlacementError(UserError):
    """The cluster lacks resources that the configuration needs."""


class AddressError(UserError):
    """No Ray cluster, or no dashboard of one, answers at an address."""


class JobError(UserError):
    """There is no such job, or it cannot be submitted now."""


class RunDirectoryError(UserError):
    """The run directory cannot be used, or is damaged."""


class RowError(SphereError):
    """One problem failed; recorded with the row and counted."""


class DeadlineExceededError(RowError):
    """A request or a problem ran out of time."""


class RequestError(RowError):
    """An engine refused or lost one request for good."""


class FatalError(SphereError):
    """The run cannot go on."""


class EngineError(FatalError):
    """An engine pool is gone for good, or an engine broke its contract."""


class StorageError(FatalError):
    """Files cannot be written or read because of the disk they lie on."""


class GraderError(FatalError):
    """The grader failed its self-test, or its worker processes cannot be kept alive."""


class ReleaseError(FatalError):
    """Engines did not give their memory back before training."""


class TrainingError(FatalError):
    """A training phase failed."""


class TooFewLabelsError(TrainingError):
    """Fewer problems with scored steps than `trained.training.min_problems`; the source stays."""


class CollapseError(TrainingError):
    """The guard stopped training: log-probs of the chosen side fell, or the loss diverged."""
