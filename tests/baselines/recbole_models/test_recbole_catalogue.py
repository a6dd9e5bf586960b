"""The catalogue is whole, its defaults are RecBole's, and without RecBole everything still explains itself."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from baselines.recbole import installation
from baselines.recbole.catalogue import ENTRIES, Entry
from baselines.recbole.classes import class_of
from baselines.recbole.defaults import read_properties, read_refused, read_settings, rows_per_positive
from bench.experiments.provenance import source_hash
from bench.models import find_model

needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")


@needs_recbole
def test_every_general_recommender_is_listed():
    package = importlib.import_module("recbole.model.general_recommender")
    base = importlib.import_module("recbole.model.abstract_recommender").GeneralRecommender
    found = {name for name, value in vars(package).items() if isinstance(value, type) and issubclass(value, base)}
    assert set(ENTRIES) == found
    assert len(ENTRIES) == 33


@needs_recbole
@pytest.mark.parametrize("name", ENTRIES)
def test_batches_and_scoring_are_what_the_class_takes(name):
    package = importlib.import_module("recbole.model.general_recommender")
    base = importlib.import_module("recbole.model.abstract_recommender").GeneralRecommender
    entry, cls = ENTRIES[name], getattr(package, name)
    kind = cls.input_type.name
    if entry.batches == "triples":
        assert kind == "PAIRWISE"
    if entry.batches == "points":
        assert kind == "POINTWISE"
    assert (entry.scoring == "pairs") == (cls.full_sort_predict is base.full_sort_predict)
    assert (entry.batches == "none") == (cls.type.name == "TRADITIONAL" or name == "NCEPLRec")


@needs_recbole
def test_whole_users_go_where_recboles_own_loader_sends_them():
    text = (installation.package_folder() / "data" / "utils.py").read_text()
    sent = {name for name in ENTRIES if f'"{name}": _get_AE_dataloader' in text}
    assert sent == {name for name, entry in ENTRIES.items() if entry.batches == "users"}


@needs_recbole
@pytest.mark.parametrize("name", ENTRIES)
def test_every_setting_of_a_models_file_can_be_set_or_says_why_not(name):
    folder = installation.package_folder()
    own = read_properties(folder / "properties" / "model" / f"{name}.yaml")
    settings, refused = read_settings(ENTRIES[name], folder), read_refused(ENTRIES[name], folder)
    assert set(own) <= settings.keys() | refused.keys()
    assert set(ENTRIES[name].refused) <= own.keys()
    assert not settings.keys() & ENTRIES[name].refused.keys()


@needs_recbole
def test_defaults_and_types_are_those_of_the_files():
    folder = installation.package_folder()
    found = {name: setting.default for name, setting in read_settings(ENTRIES["LightGCN"], folder).items()}
    assert found == {
        "embedding_size": 64,
        "n_layers": 2,
        "reg_weight": 1e-5,
        "require_pow": False,
        "train_batch_size": 2048,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "learner": "adam",
        "sample_num": 1,
    }
    fism = read_settings(ENTRIES["FISM"], folder)["reg_weights"]
    assert (fism.default, fism.annotation) == ((0.01, 0.01), tuple[float, ...])
    assert read_settings(ENTRIES["LDiffRec"], folder)["out_dims"].default == ()
    assert set(read_settings(ENTRIES["EASE"], folder)) == {"reg_weight"}
    assert "sample_num" not in read_settings(ENTRIES["MultiVAE"], folder)
    assert "trainer" in read_refused(ENTRIES["BPR"], folder)["epochs"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("[1e-2, 8e-8]", [0.01, 8e-8]), ("1e2", 100.0), ("5", 5), ("'1e'", "1e"), ("~", None)],
)
@needs_recbole
def test_numbers_are_read_as_recbole_reads_them(text, value, tmp_path):
    (tmp_path / "file.yaml").write_text(f"x: {text}\n")
    found = read_properties(tmp_path / "file.yaml")["x"]
    assert found == value
    assert type(found) is type(value)


def test_rows_of_a_batch():
    assert [rows_per_positive(kind, 3) for kind in ("triples", "points", "users", "none")] == [3, 4, 1, 1]


def test_statuses():
    assert Entry("A", "none").status == "works"
    needing = Entry("B", "none", packages={"x": "x-cpu"}, note="slow")
    assert (needing.status, needing.remark) == ("needs", "pip install x-cpu; slow")
    assert Entry("C", "none", reason="no", packages={"x": "y"}).status == "cannot"
    with pytest.raises(installation.RecBoleUnavailableError, match="RecBole's C cannot run here: no"):
        installation.check_available(Entry("C", "none", reason="no"))


def absent(*modules):
    real = importlib.util.find_spec
    return lambda name, package=None: None if name in modules else real(name, package)


def test_without_recbole_the_install_line_is_given(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", absent("recbole"))
    with pytest.raises(installation.RecBoleUnavailableError) as raised:
        class_of.__wrapped__("EASE")
    message = str(raised.value)
    assert "pins a ray" in message
    assert "Python 3.12" in message
    assert installation.INSTALL in message
    assert installation.INSTALL.startswith("pip install --no-deps recbole==1.2.1 && pip install colorama colorlog")


def test_a_folder_of_the_same_name_is_not_recbole(monkeypatch, tmp_path):
    (tmp_path / "recbole").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "recbole", raising=False)
    with pytest.raises(installation.RecBoleUnavailableError, match="RecBole is not installed"):
        installation.package_folder()


@needs_recbole
def test_a_missing_import_of_recbole_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", absent("yaml", "texttable"))
    with pytest.raises(installation.RecBoleUnavailableError, match="pip install texttable pyyaml"):
        installation.package_folder()


@needs_recbole
def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(installation, "installed_version", lambda: "1.2.0")
    with pytest.raises(installation.RecBoleUnavailableError, match="1.2.1 is expected, found 1.2.0"):
        installation.package_folder()


@needs_recbole
@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.status == "needs"])
def test_a_model_whose_package_is_missing_says_so(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", absent(*ENTRIES[name].packages))
    with pytest.raises(installation.RecBoleUnavailableError, match=f"RecBole's {name} needs .*: pip install"):
        class_of.__wrapped__(name)


@needs_recbole
def test_the_named_imports_are_all_that_this_program_does_not_bring():
    code = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('ray', 'hyperopt', 'thop', 'plotly', 'wandb', 'psutil'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import baselines.recbole\n"
        "baselines.recbole.LightGCN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_catalogue_is_light():
    code = (
        "import sys, baselines.recbole.catalogue, bench.models; print({'torch', 'recbole', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"


@needs_recbole
def test_the_hash_of_a_models_source_covers_recboles_file_and_version_and_the_code_here(monkeypatch, tmp_path):
    found = source_hash(find_model("recbole:BPR"))
    assert found == source_hash(find_model("recbole:bpr"))
    assert found != source_hash(find_model("recbole:LightGCN"))
    with monkeypatch.context() as patched:
        patched.setattr(installation, "VERSION", "1.2.2")
        patched.setattr(installation, "installed_version", lambda: "1.2.2")
        assert source_hash(find_model("recbole:BPR")) != found
    with monkeypatch.context() as patched:
        (tmp_path / "bpr.py").write_text("changed")
        patched.setattr(installation, "model_file", lambda entry, folder: tmp_path / "bpr.py")
        assert source_hash(find_model("recbole:BPR")) != found
    asked = []
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: asked.append(name) or real(name, package)
    )
    source_hash(find_model("recbole:BPR"))
    here = Path(installation.__file__).parent
    assert {f"baselines.recbole.{path.stem}" for path in here.glob("[a-z]*.py")} <= set(asked)
