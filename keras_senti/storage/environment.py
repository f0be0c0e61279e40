"""What a run is made with: versions, machine, memory."""

import contextlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None


def read_peak_memory() -> float | None:
    """Returns the largest resident size that this process has had, in GB (10^9 bytes); None on Windows."""
    if resource is None:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(size * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


def describe_environment() -> dict:
    """Returns the command, the versions and the git commit, for the manifest."""
    packages = ("tensorflow", "tensorflow-tpu", "keras", "numpy", "pandas", "scikit-learn", "tensorboard", "opencc")
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    return {"command": sys.argv, "versions": versions, "git_commit": commit}
