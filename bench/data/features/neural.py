"""Encode texts and pictures by neural models, on the device, in batches, each content once."""

import importlib.util
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import requests
from numpy.typing import NDArray

from bench.data.features.encoding_progress import EncodingProgress
from bench.data.features.image_model import ImageEncoder, UnreadableError
from bench.data.features.vectors import VectorCache, content_key, encoder_folder
from bench.data.raw.rawfiles import RawFile
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.modalities import Encoder, ImageModel, SentenceTransformer
from bench.errors import DataError

Report = Callable[[str], None]
Matrix = NDArray[np.float32]
Loaded = TypeVar("Loaded")

NEEDS: dict[type[Encoder], tuple[str, ...]] = {
    SentenceTransformer: ("sentence_transformers", "transformers"),
    ImageModel: ("transformers", "PIL"),
}
DECODING_THREADS = min(8, os.cpu_count() or 1)
SHOWN = 5


def require(features: Iterable[Encoder]) -> None:
    """Make sure that the libraries are installed that encoders need, without loading them.

    Raises:
        DataError: one is not.
    """
    lacking = [
        (getattr(feature, "encoder", ""), library)
        for feature in features
        for library in NEEDS.get(type(feature), ())
        if importlib.util.find_spec(library) is None
    ]
    if lacking:
        encoders = " and ".join(dict.fromkeys(f"'{encoder}'" for encoder, _ in lacking))
        libraries = ", ".join(dict.fromkeys(library for _, library in lacking))
        raise DataError(
            f"Features with the encoder {encoders} need libraries that are not installed ({libraries}). Install them "
            f"with pip install 'ld4mrec-bench[features]', or leave the modality out, as in --feature visual=none."
        )


def encode_texts(
    feature: SentenceTransformer, texts: Sequence[str], cache: Path, device: str, report: Report
) -> Matrix:
    """Encode texts by a model of the sentence-transformers library.

    The vectors are those that the model gives for its task: its own pooling, and its own normalisation or default
    prompt if it has one; a plain transformers model without a pooling gets the mean over its tokens. Texts longer than
    the model takes are cut there. The model runs in evaluation mode and float32, whatever its weights are stored in.

    Args:
        feature: names the model.
        texts: at least one.
        cache: folder of all caches.
        device: "auto" is the GPU if there is one, else the processor.
        report: gets lines on progress.

    Returns:
        float32 [len(texts), width], rounded to 5 decimals (see `VectorCache`).

    Raises:
        DataError: the model cannot be loaded or used.
    """
    if not texts:
        raise DataError(f"There is no text to encode for the model '{feature.model}'. Check the recipe's text fields.")
    # A JSON file can hold half of a character pair, which no tokenizer takes.
    clean = [text.encode(errors="replace").decode() for text in texts]
    keys = [content_key(text.encode()) for text in clean]
    with VectorCache(encoder_folder(cache, "sentence-transformers", feature.model, {"version": 1}), report) as store:
        new = {key: text for key, text in zip(keys, clean, strict=True) if key not in store}
        n_known = len(set(keys)) - len(new)
        if new:
            model = _load_text_model(feature.model, device)
            # Texts of like length share a batch: little padding, and the longest come first, when memory is to run out.
            ordered = sorted(new.items(), key=lambda entry: -len(entry[1]))
            with EncodingProgress("texts", len(ordered), report) as progress, _enough_memory(feature.batch_size):
                for batch in _batches(ordered, feature.batch_size):
                    vectors = model.encode([text for _, text in batch], batch_size=len(batch), show_progress_bar=False)
                    store.add([key for key, _ in batch], _finite(vectors, feature.model))
                    progress.advance(len(batch))
        report(f"texts by {feature.model}: {len(new):,} encoded, {n_known:,} known from before")
        return store.rows(keys)


def encode_pictures(
    feature: ImageModel, pictures: Sequence[RawFile], cache: Path, device: str, report: Report
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Encode pictures by an image model of the transformers library; `ImageEncoder` says which vector that is.

    Args:
        feature: names the model.
        pictures: at least one; each is read once, and encoded if no other had the same bytes.
        cache: folder of all caches.
        device: "auto" is the GPU if there is one, else the processor.
        report: gets lines on progress, and on the pictures that cannot be read.

    Returns:
        float32 [len(pictures), width], rounded to 5 decimals (see `VectorCache`); and bool [len(pictures)]: False
        where a picture cannot be read, whose row is zero.

    Raises:
        DataError: the model cannot be loaded or used, or none of the pictures can be read.
    """
    with VectorCache(encoder_folder(cache, "image", feature.model, {"version": 1}), report) as store:
        run = _PictureRun(feature, pictures, store, device)
        n_known = len(store)
        with EncodingProgress("pictures", len(pictures), report) as progress, _enough_memory(feature.batch_size):
            run.encode(progress)
        ok = np.array([key is not None and key in store for key in run.keys], dtype=np.bool_)
        _report_unreadable(run, ok, report)
        n_new = len(store) - n_known
        n_distinct = len({key for key, fine in zip(run.keys, ok, strict=True) if fine})
        report(f"pictures by {feature.model}: {n_new:,} encoded, {n_distinct - n_new:,} known from before")
        return store.rows([key if fine else None for key, fine in zip(run.keys, ok, strict=True)]), ok


class _PictureRun:
    """One pass over pictures: reading, decoding in threads, and encoding overlap.

    Attributes:
        keys: of the contents, by row; None where a file could not be read.
        reasons: row -> why its picture is unreadable, for the first row of each content.
    """

    def __init__(self, feature: ImageModel, pictures: Sequence[RawFile], store: VectorCache, device: str) -> None:
        self.pictures = pictures
        self.keys: list[bytes | None] = [None] * len(pictures)
        self.reasons: dict[int, str] = {}
        self._feature, self._store, self._device = feature, store, device

    def encode(self, progress: EncodingProgress) -> None:
        """Bring every readable picture into the cache."""
        waiting: deque[list[tuple[int, Future[NDArray[np.float32]]]]] = deque()
        with ThreadPoolExecutor(DECODING_THREADS) as pool, warnings.catch_warnings():
            # Pictures with too many pixels are refused by `open_picture`, with a reason.
            warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
            for batch in _batches(self._new(progress), self._feature.batch_size):
                waiting.append([(row, pool.submit(self._encoder.prepare, content)) for row, content in batch])
                if len(waiting) > 1:
                    self._finish(waiting.popleft(), progress)
            for prepared in waiting:
                self._finish(prepared, progress)

    @cached_property
    def _encoder(self) -> ImageEncoder:
        """Loaded when the first picture needs it, which may be never."""
        device = _resolved(self._device)
        return _loaded(self._feature.model, lambda name, local_only: ImageEncoder(name, device, local_only=local_only))

    def _new(self, progress: EncodingProgress) -> Iterator[tuple[int, bytes]]:
        """Yield (row, content) of contents that are neither known nor on their way."""
        seen: set[bytes] = set()
        for row, picture in enumerate(self.pictures):
            try:
                content = picture.read_bytes()
            except (DataError, UnavailableError) as error:
                self.reasons[row] = str(error)
                progress.advance(1)
                continue
            key = content_key(content)
            self.keys[row] = key
            if key in self._store or key in seen:
                progress.advance(1)
            else:
                seen.add(key)
                yield row, content

    def _finish(self, batch: list[tuple[int, Future[NDArray[np.float32]]]], progress: EncodingProgress) -> None:
        keys, pixels = [], []
        for row, future in batch:
            try:
                pixels.append(future.result())
                keys.append(self.keys[row] or b"")
            except UnreadableError as error:
                self.reasons[row] = str(error)
        if keys:
            self._store.add(keys, _finite(self._encoder.encode(pixels), self._feature.model))
        progress.advance(len(batch))


def _report_unreadable(run: _PictureRun, ok: NDArray[np.bool_], report: Report) -> None:
    bad = [int(row) for row in np.flatnonzero(~ok)]
    if not bad:
        return
    first = [f"{run.pictures[row].shown} ({run.reasons[row]})" for row in bad if row in run.reasons][:SHOWN]
    more = f" and {len(bad) - len(first):,} more" if len(bad) > len(first) else ""
    line = f"{len(bad):,} of {len(ok):,} pictures cannot be read: {', '.join(first)}{more}"
    if len(bad) == len(ok):
        raise DataError(f"{line}. Without a single picture there are no features; check the recipe's path rules.")
    report(line)


def _load_text_model(model: str, device: str) -> Any:
    resolved = _resolved(device)

    def load(name: str, local_only: bool) -> Any:
        import sentence_transformers

        found = sentence_transformers.SentenceTransformer(name, device=resolved, local_files_only=local_only)
        return found.float().eval()

    return _loaded(model, load)


def _loaded(model: str, load: Callable[[str, bool], Loaded]) -> Loaded:
    """Call `load` with the name or folder of a model, and whether to do without the hub."""
    folder = Path(model).expanduser()
    is_folder = folder.is_dir()
    local_only = is_folder or not _hub_answers()
    _quieten()
    try:
        return load(str(folder) if is_folder else model, local_only)
    except DataError:
        raise
    except Exception as error:  # the libraries raise nearly anything where there is no model of their kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if is_folder:
            advice = (
                "The folder should hold a whole model of the library: its configuration, weights and preprocessing."
            )
        elif local_only:
            advice = (
                f"The Hugging Face hub cannot be reached, and its cache on this computer does not hold the model. "
                f"Download it elsewhere (hf download {model} --local-dir FOLDER) and give the folder as the model."
            )
        else:
            advice = (
                "Check the name on huggingface.co and whether the model wants a login or accepted terms; or download "
                "it yourself and give the folder as the model."
            )
        raise DataError(f"The model '{model}' cannot be loaded: {reason}. {advice}") from error


def _quieten() -> None:
    """Keep the libraries' bars, redrawn many times a second, out of logs."""
    from transformers import utils

    library: Any = utils
    if not sys.stderr.isatty():
        library.logging.disable_progress_bar()


def _hub_answers() -> bool:
    """Say whether the hub can be reached; its own client would find out by minutes of retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        return False
    return True


def _resolved(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise DataError(f"There is no device '{device}'. Use auto, cpu, cuda or cuda:0.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise DataError(f"The device '{device}' was asked for, but PyTorch finds no GPU here. Use auto or cpu.")
    return device


@contextmanager
def _enough_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Loaded only now: when everything is in the cache, nothing else needs it.
        import torch

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(
            f"The device's memory does not hold a batch of {batch_size}. Give the feature a smaller batch_size in the "
            f"recipe, or use --device cpu. What was encoded so far is kept."
        ) from error


def _finite(vectors: NDArray[np.float32], model: str) -> NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise DataError(f"The model '{model}' gives values that are NaN or infinite; its weights are not sound.")
    return vectors


def _batches(entries: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch
