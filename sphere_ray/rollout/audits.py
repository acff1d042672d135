"""Reads the audit file that settings name."""

from sphere_ray.errors import ConfigError
from sphere_ray.method.audit import NOTHING, Audit
from sphere_ray.reward.judgements import AuditLine, audit_lines, audit_of
from sphere_ray.untrusted import read_bounded

_MAX_BYTES = 1 << 30


def read_audit(path: str | None) -> list[AuditLine]:
    """The lines of an audit file; none without a path.

    Raises:
        ConfigError: it cannot be read, or a line is broken.
    """
    if path is None:
        return []
    try:
        text = read_bounded(path, _MAX_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        trouble = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"method.pairs.audit: {path} cannot be read ({trouble}); give the path of the "
            "audit.jsonl that `sphere audit` wrote, or remove the setting"
        ) from None
    return audit_lines(text, path)


def load_audit(path: str | None) -> Audit:
    """What people decided in an audit file.

    Raises:
        ConfigError: as `read_audit`.
    """
    return audit_of(read_audit(path)) if path else NOTHING
