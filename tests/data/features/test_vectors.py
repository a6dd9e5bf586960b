import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.data.features import vectors
from bench.data.features.vectors import VectorCache, content_key, encoder_folder
from bench.errors import DataError

A, B, C = (content_key(text) for text in (b"a", b"b", b"c"))


@pytest.fixture
def lines():
    return []


@pytest.fixture
def filled(tmp_path, lines):
    """A cache folder with two parts: a and b; c."""
    with VectorCache(tmp_path / "one", lines.append) as cache:
        cache.add([A, B], np.array([[1, 2], [3, 4]]))
        cache.flush()
        cache.add([C], np.array([[5, 6]]))
    return tmp_path / "one"


def parts(folder):
    return sorted(folder.glob("part-*.parquet"))


def test_rows_come_in_the_order_asked_for_with_zeros_for_what_is_not_there(filled, lines):
    cache = VectorCache(filled, lines.append)
    assert len(cache) == 3
    assert cache.width == 2
    assert cache.rows([C, A, None, A, B]).tolist() == [[5, 6], [1, 2], [0, 0], [1, 2], [3, 4]]
    assert cache.rows([]).shape == (0, 2)
    assert lines == []


def test_a_content_that_was_never_added_is_an_error(filled, lines):
    with pytest.raises(KeyError):
        VectorCache(filled, lines.append).rows([content_key(b"d")])


def test_rows_are_the_same_before_and_after_they_are_stored(tmp_path, lines):
    values = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    with VectorCache(tmp_path, lines.append) as cache:
        cache.add([A, B], values)
        fresh = cache.rows([B, A])
    again = VectorCache(tmp_path, lines.append).rows([B, A])
    assert fresh.dtype == again.dtype == np.float32
    assert fresh.tobytes() == again.tobytes()
    np.testing.assert_allclose(fresh, values[::-1], atol=5.1e-6, rtol=1e-6)


def test_values_are_rounded_to_five_decimals_without_a_negative_zero(tmp_path, lines):
    with VectorCache(tmp_path, lines.append) as cache:
        cache.add([A], np.array([[0.1234549, 0.1234551, -0.000001]], dtype=np.float32))
        found = cache.rows([A])
    assert found.tobytes() == np.array([[0.12345, 0.12346, 0.0]], dtype=np.float32).tobytes()


def test_a_part_is_written_every_few_batches(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(vectors, "BATCHES_PER_PART", 2)
    cache = VectorCache(tmp_path, lines.append)
    for number in range(5):
        cache.add([content_key(bytes([number]))], np.array([[number]]))
    assert len(parts(tmp_path)) == 2
    assert len(VectorCache(tmp_path, lines.append)) == 4
    cache.flush()
    assert VectorCache(tmp_path, lines.append).rows([content_key(b"\4")]).tolist() == [[4]]


def test_an_interruption_keeps_what_was_encoded(tmp_path, lines):
    with pytest.raises(KeyboardInterrupt), VectorCache(tmp_path, lines.append) as cache:
        cache.add([A], np.array([[1]]))
        raise KeyboardInterrupt
    assert A in VectorCache(tmp_path, lines.append)


def test_a_killed_process_loses_at_most_the_last_part(tmp_path, lines):
    script = (
        "import os, sys; from pathlib import Path; import numpy as np; from bench.data.features import vectors\n"
        "vectors.BATCHES_PER_PART = 2; cache = vectors.VectorCache(Path(sys.argv[1]), print)\n"
        "for number in range(3): cache.add([vectors.content_key(bytes([number]))], np.array([[number]]))\n"
        "vectors.pq.write_table = lambda table, path, **options: (path.write_bytes(b'half'), os._exit(9))\n"
        "cache.flush()\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], timeout=60).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    cache = VectorCache(tmp_path, lines.append)
    assert cache.rows([content_key(b"\1"), content_key(b"\0")]).tolist() == [[1], [0]]
    assert content_key(b"\2") not in cache
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in parts(tmp_path)]


def test_what_another_running_process_writes_is_left_alone(tmp_path, lines):
    theirs = tmp_path / f".part-0.parquet.{os.getppid()}.partial"
    theirs.write_bytes(b"half")
    VectorCache(tmp_path, lines.append)
    assert theirs.exists()


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: b"PAR1" * 20,
        # Inside the stored numbers, where the file's structure stays sound.
        lambda content: flip(content, content.index(np.array([3, 4], np.float32).tobytes())),
        lambda content: flip(content, content.index(A)),
    ],
)
def test_a_damaged_part_is_deleted_and_the_others_stay(filled, lines, damage):
    (path,) = [path for path in parts(filled) if A in path.read_bytes()]
    path.write_bytes(damage(path.read_bytes()))
    cache = VectorCache(filled, lines.append)
    assert not path.exists()
    assert (A in cache, B in cache, C in cache) == (False, False, True)
    (line,) = lines
    assert line.startswith(f"{path} is damaged (")
    assert line.endswith("and was deleted; what it held is encoded anew")
    with cache:
        cache.add([A, B], np.array([[1, 2], [3, 4]]))
    assert VectorCache(filled, lines.append).rows([B, C]).tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (pa.array(["a" * 32]), pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)),
        (pa.array([A], pa.binary(32)), pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2)),
        (pa.array([A], pa.binary(32)), pa.array([[1.0, 2.0]])),
        (
            pa.array([A], pa.binary(32)),
            pa.FixedSizeListArray.from_arrays(pa.array([1.0, float("nan")], pa.float32()), 2),
        ),
        (pa.array([A], pa.binary(32)), None),
    ],
)
def test_a_part_with_something_else_in_it_counts_as_damaged(tmp_path, lines, keys, values):
    columns = {"content": keys} if values is None else {"content": keys, "vector": values}
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet")
    assert len(VectorCache(tmp_path, lines.append)) == 0
    assert "is damaged" in lines[0]
    assert parts(tmp_path) == []


def test_a_part_of_another_width_counts_as_damaged(filled, lines):
    with VectorCache(filled / "other", lines.append) as cache:
        cache.add([content_key(b"d")], np.array([[1, 2, 3]]))
    (foreign,) = parts(filled / "other")
    foreign.replace(filled / "part-zz.parquet")
    assert content_key(b"d") not in VectorCache(filled, lines.append)
    assert "vectors of 3, not 2" in lines[0]


def test_an_encoder_of_another_width_is_refused(filled, lines):
    with pytest.raises(DataError, match="gives 3 numbers each.*holds vectors of 2: the model behind this name has"):
        VectorCache(filled, lines.append).add([content_key(b"d")], np.array([[1, 2, 3]]))


def test_a_part_that_vanishes_in_use_is_named(filled, lines):
    cache = VectorCache(filled, lines.append)
    for path in parts(filled):
        path.unlink()
    with pytest.raises(DataError, match=r"part-.*has changed while it was in use.*Try again"):
        cache.rows([A])


def test_a_folder_that_cannot_be_made_is_named(tmp_path, lines):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="The cache .*one cannot be used"):
        VectorCache(tmp_path / "file" / "one", lines.append)


def test_a_full_disk_is_an_error_that_leaves_nothing_half_written(tmp_path, lines, monkeypatch):
    def full(table, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vectors.pq, "write_table", full)
    cache = VectorCache(tmp_path, lines.append)
    cache.add([A], np.array([[1]]))
    with pytest.raises(DataError, match=r"cannot be written.*No space left.*Check free space"):
        cache.flush()
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_of_two_processes_counts_once(filled, lines):
    with VectorCache(filled / "copy", lines.append) as other:
        other.add([B], np.array([[3, 4]]))
    (path,) = parts(filled / "copy")
    path.replace(filled / path.name)
    cache = VectorCache(filled, lines.append)
    assert len(cache) == 3
    assert cache.rows([B]).tolist() == [[3, 4]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20)
@given(
    batches=st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=6),
    asked=st.lists(st.integers(min_value=0, max_value=100)),
)
def test_every_row_is_found_however_the_parts_fall(tmp_path_factory, batches, asked):
    folder = tmp_path_factory.mktemp("cache")
    keys = [content_key(bytes([number])) for number in range(sum(batches))]
    start = 0
    with VectorCache(folder, pytest.fail) as cache:
        for count in batches:
            numbers = np.arange(start, start + count)
            cache.add(keys[start : start + count], np.stack([numbers, -numbers], axis=1))
            start += count
            if count % 2:
                cache.flush()
    rows = [number % len(keys) for number in asked]
    found = VectorCache(folder, pytest.fail).rows([keys[row] for row in rows])
    assert found.tolist() == [[row, -row] for row in rows]


def test_the_folder_says_which_encoder_it_belongs_to(tmp_path):
    folder = encoder_folder(tmp_path, "image", "some-one/Model_X", {"backend": "pil"})
    assert folder.parent == tmp_path
    assert folder.name.startswith("image-some-one-model-x-")
    assert folder == encoder_folder(tmp_path, "image", "some-one/Model_X", {"backend": "pil"})
    others = {
        encoder_folder(tmp_path, "text", "some-one/Model_X", {"backend": "pil"}),
        encoder_folder(tmp_path, "image", "some-one/Model-X", {"backend": "pil"}),
        encoder_folder(tmp_path, "image", "some-one/Model_X", {}),
    }
    assert len(others | {folder}) == 4


def test_a_model_in_a_folder_counts_by_its_files(tmp_path):
    model = tmp_path / "models" / "mine"
    (model / "sub").mkdir(parents=True)
    (model / "sub" / "weights").write_bytes(b"one")
    first = encoder_folder(tmp_path, "image", str(model), {})
    assert first.name.startswith("image-mine-")

    (model / ".cache").write_text("hidden")
    moved = model.rename(tmp_path / "mine")
    assert encoder_folder(tmp_path, "image", str(moved), {}) == first

    (moved / "sub" / "weights").write_bytes(b"two")
    changed = encoder_folder(tmp_path, "image", str(moved), {})
    (moved / "sub" / "weights").rename(moved / "sub" / "other")
    renamed = encoder_folder(tmp_path, "image", str(moved), {})
    assert len({first, changed, renamed}) == 3
