"""Whether a real Prometheus has every series of the board and the rules, and takes every query.

`python -m tests.monitoring.scrape URL`; URL is that of a Prometheus that scrapes a running job.
Start a job, let it get to the end of its first iteration, and run this. A job of simulated engines
trains nothing and lacks those series.
"""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.monitoring.series import expressions, named


def asked(prometheus: str, path: str, **parameters: str) -> Any:
    """The data that Prometheus answers."""
    address = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]


def present(prometheus: str) -> set[str]:
    """The names of all series that Prometheus knows."""
    found = asked(prometheus, "label/__name__/values", **{"match[]": '{__name__=~"ray_sphere_.*"}'})
    return set(found)


def refused(prometheus: str) -> list[str]:
    """Queries of the board and the rules that Prometheus does not take, for all runs."""
    wrong = []
    for expression in expressions():
        query = expression.replace("$run", ".*")
        try:
            if not query.startswith("label_values"):
                asked(prometheus, "query", query=query)
        except urllib.error.HTTPError:
            wrong.append(expression)
    return wrong


def main() -> None:
    prometheus = sys.argv[1].rstrip("/")
    found, wanted, wrong = present(prometheus), named(), refused(prometheus)
    for name in sorted(wanted):
        sys.stdout.write(f"{'found' if name in found else 'LACKS'} {name}\n")
    for expression in wrong:
        sys.stdout.write(f"REFUSES {expression}\n")
    sys.exit(1 if wanted - found or wrong else 0)


if __name__ == "__main__":
    main()
