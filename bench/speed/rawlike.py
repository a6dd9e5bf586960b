"""Write synthetic files in the raw formats of the large datasets, as big as asked for, without holding them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

ROWS_AT_ONCE = 1_000_000
# Rows of REC-TMALL's log by action, in percent.
ACTIONS = {"click": 93.7, "cart": 3.0, "collect": 2.4, "alipay": 0.9}

Block = Callable[[np.random.Generator, int, int], pa.Table]


def write_hm(folder: Path, n_rows: int, seed: int = 0) -> Path:
    """Write `transactions_train.csv` as H&M's: sorted by day over two years, 64-digit customers, zero-padded articles.

    There are 43 customers and 3.3 articles to a thousand rows, as in the original, with skewed activity.
    """
    n_users, n_items = max(20, n_rows * 43 // 1000), max(20, n_rows * 33 // 10000)
    rng = np.random.default_rng(seed)
    digits = np.frombuffer(rng.bytes(n_users * 32), dtype="S32")
    customers = pa.array([each.ljust(32, b"\0").hex() for each in digits])
    articles = pa.array([f"{108_775_015 + 3 * number:010d}" for number in range(n_items)])
    days = pa.array(pd.date_range("2018-09-20", "2020-09-22").strftime("%Y-%m-%d"))

    def block(rng: np.random.Generator, start: int, count: int) -> pa.Table:
        day = (np.arange(start, start + count) * len(days)) // n_rows
        return pa.table(
            {
                "t_dat": days.take(pa.array(day)),
                "customer_id": customers.take(pa.array(_skewed(rng, n_users, count))),
                "article_id": articles.take(pa.array(_skewed(rng, n_items, count))),
                "price": pa.array(rng.random(count).round(16)),
                "sales_channel_id": pa.array(rng.integers(1, 3, count)),
            }
        )

    path = folder / "transactions_train.csv"
    _write(path, _blocks(block, n_rows, seed), ",", header=True)
    return path


def write_tmall(folder: Path, n_rows: int, seed: int = 0) -> list[Path]:
    """Write the three parts of REC-TMALL's log: no header, fields set apart by SOH, 0.9 percent purchases.

    Users and items do not become more with the rows: 100,000 and 50,000.
    """
    n_users, n_items = 100_000, 50_000
    actions = pa.array(list(ACTIONS))
    shares = np.array(list(ACTIONS.values())) / sum(ACTIONS.values())

    def block(rng: np.random.Generator, start: int, count: int) -> pa.Table:
        seconds = pd.Timestamp("2013-01-01").value // 10**9 + rng.integers(0, 600 * 86_400, count)
        times = pa.array(seconds, pa.timestamp("s"))
        return pa.table(
            {
                "item": pa.array(_skewed(rng, n_items, count) + 1).cast(pa.string()),
                "user": pc.binary_join_element_wise(
                    "u", pa.array(_skewed(rng, n_users, count) + 1).cast(pa.string()), ""
                ),
                "action": actions.take(pa.array(rng.choice(len(shares), count, p=shares))),
                "vtime": pc.strftime(times, format="%Y-%m-%d %H:%M:%S"),
            }
        )

    paths = []
    for number, part in enumerate("abc"):
        path = folder / f"tianchi_2014002_rec_tmall_log_part{part}.txt"
        share = n_rows // 3 + (number < n_rows % 3)
        _write(path, _blocks(block, share, seed + number), "\x01", header=False)
        paths.append(path)
    return paths


def _skewed(rng: np.random.Generator, n: int, count: int) -> "np.ndarray":
    """Draw numbers below n, low ones far more often: about half of the draws fall on a tenth of the numbers."""
    return (n * rng.random(count) ** 3).astype(np.int64)


def _blocks(block: Block, n_rows: int, seed: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(seed + 1)
    for start in range(0, n_rows, ROWS_AT_ONCE):
        yield block(rng, start, min(ROWS_AT_ONCE, n_rows - start))


def _write(path: Path, blocks: Iterator[pa.Table], separator: str, header: bool) -> None:
    first = next(blocks)
    # The writer's own header line would be in quotes, which the originals do not have.
    options = pacsv.WriteOptions(include_header=False, delimiter=separator, quoting_style="none")
    with path.open("wb") as file:
        if header:
            file.write((separator.join(first.column_names) + "\n").encode())
        with pacsv.CSVWriter(file, first.schema, write_options=options) as writer:
            writer.write_table(first)
            for each in blocks:
                writer.write_table(each)
