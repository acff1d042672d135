"""What a committed step says about itself: what it was made from, its report, the versions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sphere_ray.errors import RunDirectoryError
from sphere_ray.provenance import code_hash, versions
from sphere_ray.records import PhaseReport, PoolUse, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record beside a step's output; the output is complete once the manifest is there.

    `fingerprint` hashes the step's name, the settings that decided the output (`identity`) and the
    fingerprints of everything that entered it (`inputs`). `output` is what later steps name as
    their input: the hash of a model or of problems where the step made them, else the fingerprint.
    `versions` and `code` (a hash of the package's source) say where it was made and decide nothing.
    """

    step: str
    fingerprint: str
    output: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, Any]
    report: PhaseReport
    versions: Mapping[str, str]
    code: str
    created: str

    @classmethod
    def of(
        cls,
        report: PhaseReport,
        *,
        output: str | None,
        identity: Mapping[str, Any],
        inputs: Mapping[str, Any],
    ) -> "Manifest":
        """The manifest of a step that just ended, in this environment."""
        return cls(
            step=report.phase,
            fingerprint=report.fingerprint,
            output=output or report.fingerprint,
            identity=identity,
            inputs=inputs,
            report=report,
            versions=versions(),
            code=code_hash(),
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Manifest":
        """Rebuild a manifest that was read from `path`.

        Raises:
            RunDirectoryError: it is damaged, or was written by another version of sphere.
        """
        try:
            pools = tuple(PoolUse(**use) for use in value["report"].get("pools", ()))
            writers = tuple(Writer(**each) for each in value["report"].get("writers", ()))
            report = PhaseReport(**value["report"] | {"pools": pools, "writers": writers})
            return cls(**{f.name: value[f.name] for f in fields(cls)} | {"report": report})
        except (KeyError, TypeError) as error:
            if isinstance(value, dict) and "step" not in value:
                raise RunDirectoryError(
                    f"{path} was written by an earlier version of sphere, which kept its runs "
                    "otherwise; choose another run_dir"
                ) from None
            raise RunDirectoryError(
                f"{path} is damaged or was written by another version of sphere ({error}); remove "
                "its directory and run the same command again"
            ) from None
