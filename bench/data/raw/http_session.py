"""Ask a web server for a file: patiently where that helps, and with words for people where it does not."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import requests
import urllib3.exceptions as broken
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import ConnectionPool
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

ATTEMPTS = 5
CONNECT_ATTEMPTS = 3
BACKOFF_S = 1.0
LONGEST_WAIT_S = 120.0
TIMEOUT_S = (20.0, 60.0)
RETRIED = (429, 500, 502, 503, 504)
Report = Callable[[str], None]


class TransferError(Exception):
    """A file cannot be had from one address; the message says why and what would help."""


class _Patience(Retry):
    """Retries that say what they wait for, and give up where a server asks to wait too long."""

    def __init__(self, *args: Any, report: Report | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._report = report

    def new(self, **kwargs: Any) -> "_Patience":
        return super().new(report=self._report, **kwargs)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        try:
            return super().get_retry_after(response)
        except broken.InvalidHeader:
            return None

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: Any = None,
    ) -> "_Patience":
        if response is not None and _pool is not None:
            wait_s = self.get_retry_after(response)
            if wait_s is not None and wait_s > LONGEST_WAIT_S:
                raise broken.MaxRetryError(_pool, str(url))
        return super().increment(method, url, response, error, _pool, _stacktrace)

    def sleep_for_retry(self, response: BaseHTTPResponse) -> bool:
        wait_s = self.get_retry_after(response)
        if wait_s and self._report is not None:
            self._report(f"the server asks to wait {wait_s:.0f} s")
        return super().sleep_for_retry(response)


def open_session(report: Report) -> requests.Session:
    """Return a session that repeats failed requests with growing pauses, or those a server asks for by Retry-After."""
    retries = _Patience(
        total=ATTEMPTS - 1,
        connect=CONNECT_ATTEMPTS - 1,
        status_forcelist=RETRIED,
        backoff_factor=BACKOFF_S,
        allowed_methods={"GET"},
        raise_on_status=False,
        report=report,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    # Sizes and offsets must be those of the bytes on disk.
    session.headers["Accept-Encoding"] = "identity"
    return session


def ask(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    """Return the answer to a GET of `url`, its body still to come, its status any.

    Raises:
        TransferError: there is no answer, or only one whose bytes are not those of the file.
    """
    try:
        answer = session.get(url, headers=dict(headers), stream=True, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise TransferError(_network_words(url, error)) from error
    packing = answer.headers.get("Content-Encoding", "identity").lower()
    # Some servers call a .gz file, as it is, packed content.
    if packing != "identity" and not re.search(r"\.t?gz$", url.lower()):
        answer.close()
        raise TransferError(f"{url} sends its content packed ({packing}), although it was asked not to.")
    return answer


def status_words(url: str, answer: requests.Response) -> str:
    """Say what a status that brings no file means, and what would help."""
    status = answer.status_code
    if status in (401, 403):
        return f"{url} refuses access ({status}): it wants a login or accepted terms."
    if status in (404, 410):
        return f"{url} is not there any more ({status}); if you know another address, pass it with --url."
    if status == 429:
        wait = answer.headers.get("Retry-After")
        when = f"it asks to wait: Retry-After {wait}" if wait else "try again in an hour"
        return f"{url} had too many requests (429); {when}."
    if status >= 500:
        return f"{url} answered with the error {status}; try again later."
    return f"{url} answered with the status {status} instead of a file."


def _network_words(url: str, error: requests.RequestException) -> str:
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return f"{url} cannot be trusted: its certificate is not valid here ({reason or error})."
    if isinstance(error, requests.exceptions.ProxyError):
        return f"{url} cannot be reached through the proxy that HTTP_PROXY or HTTPS_PROXY names."
    if isinstance(reason, broken.NameResolutionError):
        return f"{url} cannot be reached: this machine is offline or does not know the name of the server."
    # Some versions count a refused connection among the timeouts.
    is_late = isinstance(error, requests.Timeout) or isinstance(reason, broken.TimeoutError)
    if is_late and not isinstance(reason, broken.NewConnectionError):
        return f"{url} did not answer within {TIMEOUT_S[1]:.0f} s; try again later."
    if isinstance(reason, broken.ProtocolError):
        return f"{url} broke the connection off before it answered; try again later."
    if isinstance(error, requests.ConnectionError):
        return f"{url} cannot be reached: this machine is offline or the server is down."
    return f"{url} cannot be fetched: {error}."
