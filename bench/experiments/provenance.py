"""What a run was made with: the model's source, the program's state, the machine."""

import ast
import hashlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import __version__
from bench.models import ModelSpec
from bench.workspace import PACKAGE

RECORDED_PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "recbole")
MODEL_PACKAGES = ("ld4mrec", "baselines")


def source_hash(spec: ModelSpec) -> str:
    """Return the SHA-256 of the source files a model is made of.

    These are its module and, transitively, what that imports from its own top-level package or from the packages of
    models; libraries and the harness are not part of it. A model of RecBole adds the file that defines it and RecBole's
    version.
    """
    module = spec.reference.partition(":")[0]
    followed = {*MODEL_PACKAGES, module.partition(".")[0]}
    digest = hashlib.sha256()
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop(0)
        if name in seen or name.partition(".")[0] not in followed:
            continue
        seen.add(name)
        try:
            found = importlib.util.find_spec(name)
        except (ModuleNotFoundError, ValueError):
            continue
        if found is None or found.origin is None or not found.origin.endswith(".py"):
            continue
        text = Path(found.origin).read_bytes()
        digest.update(name.encode() + b"\0" + text + b"\0")
        waiting += sorted(_imports(text, found.parent or ""))
    if spec.family == "recbole":
        digest.update(_recbole_source(spec))
    return digest.hexdigest()


def _recbole_source(spec: ModelSpec) -> bytes:
    from baselines.recbole.catalogue import ENTRIES
    from baselines.recbole.installation import VERSION, model_file, package_folder

    return VERSION.encode() + b"\0" + model_file(ENTRIES[spec.name.partition(":")[2]], package_folder()).read_bytes()


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Yield the full names of the modules a source file may import, submodules named by `from` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def environment(device: str, n_threads: int) -> dict[str, Any]:
    """Return versions and hardware for a run's record."""
    return {
        "program": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "n_cpus": os.cpu_count(),
        "n_threads": n_threads,
        "device": device,
        "gpu": _gpu_name(device),
        "packages": {name: found for name in RECORDED_PACKAGES if (found := package_version(name))},
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a package, None where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """Return commit and cleanliness of the program's own checkout; None when it was installed from a wheel."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError) as error:
        return {"commit": None, "dirty": None, "reason": str(error)}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_name(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return str(torch.cuda.get_device_name(torch.device(device)))
