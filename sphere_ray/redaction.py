"""Takes secrets out of URLs before a setting is written, shown or logged."""

import re
from urllib.parse import unquote

HIDDEN = "***"

_USER = re.compile(r"(?<=://)(?:[^\s/?#]*@|[^\s/@:]{0,200}:(?!\d+(?:/|$))[^\s@]{0,400}@)")
"""`user:password@`; the second form is a password in which `/`, `?` or `#` was not encoded."""

_PARAMETER = re.compile(r"(?<=[?&#;])([^\s=?&#;]+)=[^\s&#;]+")
_SECRET = re.compile(
    r"sig|token|key|secret|pass|pwd|auth|cred|session|jwt|hmac|policy", re.IGNORECASE
)


def redact(text: str) -> str:
    """Hide the user, the password and the secret parameters of every URL in a text. Idempotent.

    A parameter is secret if its name sounds like it (`X-Amz-Signature`, `access_token`).
    """
    if "://" not in text:
        return text
    return _PARAMETER.sub(_hidden, _USER.sub(f"{HIDDEN}@", text))


def is_redacted(url: str) -> bool:
    """Whether a secret of this URL was hidden, so that the URL cannot be used."""
    return f"://{HIDDEN}@" in url or f"={HIDDEN}" in url


def _hidden(parameter: re.Match[str]) -> str:
    name = parameter[1]
    return f"{name}={HIDDEN}" if _SECRET.search(unquote(name)) else parameter[0]
