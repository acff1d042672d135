"""Which series of the board and the rules a running job lacks.

`python -m tests.monitoring.scrape URL`; URL is that of a real Prometheus that scrapes the job.
Start a job, let it get to the end of its first iteration, and run this. A job of simulated engines
trains nothing and lacks those series.
"""

import json
import sys
import urllib.parse
import urllib.request

from tests.monitoring.series import named


def present(prometheus: str) -> set[str]:
    """The names of all series that Prometheus knows."""
    query = urllib.parse.urlencode({"match[]": '{__name__=~"ray_sphere_.*"}'})
    address = f"{prometheus}/api/v1/label/__name__/values?{query}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return set(json.load(answer)["data"])


def main() -> None:
    found, wanted = present(sys.argv[1].rstrip("/")), named()
    for name in sorted(wanted):
        sys.stdout.write(f"{'found' if name in found else 'LACKS'} {name}\n")
    sys.exit(1 if wanted - found else 0)


if __name__ == "__main__":
    main()
