"""The harness: data, evaluation, training, experiments, analysis and the command line."""

from importlib.metadata import version

__version__ = version("ld4mrec-bench")
