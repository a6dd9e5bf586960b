"""Ask web hosts for pictures politely: never too often, with pauses when they are busy, not at all once they fail."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import requests

Answer = Literal["gone", "busy", "refused", "none"]

TRIES = 3
FAILURES_IN_A_ROW = 8
BACKOFF_S = 2.0
LONGEST_PAUSE_S = 60.0
TIMEOUT_S = (10, 30)
MAX_BYTES = 64 * 1024**2
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")


@dataclass
class _Host:
    """When a host may be asked next, how often in a row it failed, and how it failed last."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: float = 0.0
    failures: int = 0
    last: Answer = "none"


class PictureWeb:
    """Fetches pictures from many threads at once, and keeps the peace with each host.

    Args:
        hosts: asked after an address's own host, with the same path.
        delay_s: least time between the starts of two requests to one host.
    """

    def __init__(self, hosts: Sequence[str], delay_s: float) -> None:
        self._more_hosts, self._delay_s = tuple(hosts), delay_s
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def fetch(self, address: str) -> tuple[bytes, str] | Answer:
        """Return a picture and the address that gave it, or why there is none.

        At each host the address is tried as it is written, and by the other of http and https if the host has nothing
        to say about the picture.

        Returns:
            "gone" if a host says that it does not have the picture (404, 410) and none is busy; "busy" if one is (429,
            5xx, a time-out while answering, each after three tries) or refuses (401, 403); "none" if no host gives a
            usable answer.
        """
        answers: set[Answer] = set()
        for urls in self._places(address):
            for url in urls:
                answer = self._get(url)
                if isinstance(answer, bytes):
                    return answer, url
                answers.add(answer)
                if answer not in ("none", "refused"):
                    break
        if answers & {"busy", "refused"}:
            return "busy"
        return "gone" if "gone" in answers else "none"

    def given_up(self) -> list[str]:
        """Return the hosts that are not asked any more, because they failed eight times in a row."""
        return sorted(name for name, host in self._hosts.items() if host.failures >= FAILURES_IN_A_ROW)

    def _places(self, address: str) -> Iterator[list[str]]:
        parts = split_address(address)
        if parts is not None:
            scheme, own, path = parts
            other = "http" if scheme == "https" else "https"
            for host in dict.fromkeys((own, *self._more_hosts)):
                yield [f"{scheme}://{host}{path}", f"{other}://{host}{path}"]

    def _get(self, url: str) -> bytes | Answer:
        with self._lock:
            host = self._hosts.setdefault(urlsplit(url).netloc, _Host())
        if host.failures >= FAILURES_IN_A_ROW:
            return host.last
        answer: bytes | Answer = "busy"
        for attempt in range(TRIES):
            self._wait(host)
            answer, pause = self._ask(url)
            if answer != "busy":
                break
            # The pause is the host's, not this picture's: the other threads keep it as well.
            pause = min(max(pause, BACKOFF_S * 2**attempt), LONGEST_PAUSE_S)
            with host.lock:
                host.free_at = max(host.free_at, time.monotonic() + pause)
        with host.lock:
            if isinstance(answer, bytes) or answer == "gone":
                host.failures = 0
            else:
                host.failures, host.last = host.failures + 1, answer
        return answer

    def _wait(self, host: _Host) -> None:
        with host.lock:
            now = time.monotonic()
            start = max(now, host.free_at)
            host.free_at = start + self._delay_s
        if start > now:
            time.sleep(start - now)

    def _ask(self, url: str) -> tuple[bytes | Answer, float]:
        """Return the picture or why there is none, and the pause in seconds that a busy host asks for."""
        try:
            response = self._session().get(url, timeout=TIMEOUT_S, stream=True)
        except requests.ReadTimeout:
            return "busy", 0.0
        except (requests.RequestException, ValueError):
            # An odd address may escape requests' own errors as a ValueError; to the others it does not matter.
            return "none", 0.0
        with response:
            if response.status_code in (404, 410):
                return "gone", 0.0
            if response.status_code in (401, 403):
                # Often a host that has had enough of us for now.
                return "refused", 0.0
            if response.status_code == 429 or response.status_code >= 500:
                pause = response.headers.get("Retry-After", "")
                return "busy", float(pause) if pause.isdecimal() else 0.0
            if response.status_code != 200:
                return "none", 0.0
            try:
                content = _content(response)
            except requests.RequestException:
                # Broken off in the middle: it does have the picture.
                return "busy", 0.0
        return (content if looks_like_picture(content) else "none"), 0.0

    def _session(self) -> requests.Session:
        # One per thread: a session is not safe to share.
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers["User-Agent"] = "ld4mrec-bench (preparing a dataset)"
        session: requests.Session = self._local.session
        return session


def split_address(address: str) -> tuple[str, str, str] | None:
    """Return scheme, host and path of a picture's address, or None if it cannot be asked for."""
    try:
        parts = urlsplit(address.strip(), scheme="http")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return (parts.scheme, parts.netloc, urlunsplit(("", "", parts.path, parts.query, ""))) if usable else None


def looks_like_picture(content: bytes) -> bool:
    """Say whether bytes start like a JPEG, PNG, GIF, WebP or BMP file."""
    return content.startswith(STARTS) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")


def _content(response: requests.Response) -> bytes:
    """Return the body, or nothing if it is longer than any picture."""
    content = bytearray()
    for chunk in response.iter_content(65_536):
        content += chunk
        if len(content) > MAX_BYTES:
            return b""
    return bytes(content)
