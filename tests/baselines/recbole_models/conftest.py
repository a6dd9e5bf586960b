from importlib.util import find_spec

NEED_RECBOLE = (
    "test_recbole_models.py",
    "test_recbole_parity.py",
    "test_recbole_isolation.py",
    "test_recbole_evaluator.py",
)
collect_ignore = [] if find_spec("recbole") else list(NEED_RECBOLE)
