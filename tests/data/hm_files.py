"""Raw files of H&M in Kaggle's format, made up.

Thirty customers have bought 15 of 25 articles each, in September 2020; all that is added must go, but for customer 33:

- article 26 has no picture and article 27 no description; each of the thirty bought both; article 28 sold in 2018 only;
- customer 31 bought 9 articles and article 26;
- customer 32 bought 9 articles in the window and a tenth on the day before it;
- customer 33 bought 10, on the first and on the last day of the window;
- customer 34 bought 9, one of them twice;
- customer 1 bought an article three times, customer 2 one both in August and in September.
"""

from collections.abc import Iterator
from pathlib import Path

from shop_files import grid, picture

AUGUST_31, SEPTEMBER_1, SEPTEMBER_22 = "2020-08-31", "2020-09-01", "2020-09-22"
HEADER = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,graphical_appearance_no,"
    "graphical_appearance_name,colour_group_code,colour_group_name,perceived_colour_value_id,"
    "perceived_colour_value_name,perceived_colour_master_id,perceived_colour_master_name,department_no,"
    "department_name,index_code,index_name,index_group_no,index_group_name,section_no,section_name,garment_group_no,"
    "garment_group_name,detail_desc"
)
STEPS = [
    ("read", 34, 28, 554),
    ("window", 34, 27, 551),
    ("dedupe", 34, 27, 548),
    ("available", 34, 25, 487),
    ("core", 31, 25, 460),
]


def customer(number: int) -> str:
    """Return the id of a customer: 64 hexadecimal digits."""
    return f"{number * 7919:064x}"


def article(number: int) -> str:
    """Return the id of an article: ten digits, the first a zero."""
    return f"{108775000 + number:010d}"


def purchases() -> Iterator[tuple[str, int, int]]:
    """Yield day, customer and article, out of order."""
    for user, item in grid():
        yield f"2020-09-{2 + (user + item) % 20:02d}", user, item
    for user in range(1, 31):
        yield "2020-09-05", user, 26
        yield "2020-09-06", user, 27
    yield "2020-09-05", 31, 26
    for item in range(1, 10):
        yield "2020-09-07", 31, item
        yield SEPTEMBER_1, 32, item
        yield "2020-09-08", 34, item
    yield AUGUST_31, 32, 10
    for item in range(1, 11):
        yield (SEPTEMBER_1 if item <= 5 else SEPTEMBER_22), 33, item
    yield "2020-09-09", 34, 9
    yield "2020-09-01", 1, 2
    yield "2020-09-01", 1, 2
    yield "2020-08-30", 2, 3
    yield "2018-09-20", 3, 28


def transactions() -> str:
    """Return the table of purchases, sorted by day as the published one is."""
    rows = [f"{day},{customer(user)},{article(item)},0.0508305084745762,2" for day, user, item in sorted(purchases())]
    return "\n".join(["t_dat,customer_id,article_id,price,sales_channel_id", *rows]) + "\n"


def description(number: int) -> str:
    """Return what the shop says of an article; nothing of the fifth."""
    return {5: "", 6: 'Fit for a 5" heel, or none'}.get(number, f"Top number{number}, with straps.")


def articles(numbers: range = range(1, 27)) -> str:
    """Return the table of articles."""
    rows = []
    for number in numbers:
        quoted = description(number).replace('"', '""')
        rows.append(
            f'{article(number)},0{108775 + number},"Strap ""top"", {number}",253,Vest top,Garment Upper body,1010016,'
            f"Solid,09,Black,4,Dark,5,Black,1676,Jersey Basic,A,Ladieswear,1,Ladieswear,16,Womens Everyday Basics,1002,"
            f'Jersey Fancy,"{quoted}"'
        )
    return "\n".join([HEADER, *rows]) + "\n"


def text(number: int) -> str:
    """Return what the recipe makes of the description of an article: its fields joined."""
    return (
        f'Strap "top", {number} Vest top Garment Upper body Solid Black Jersey Basic Ladieswear Womens Everyday Basics '
        f"Jersey Fancy {description(number)}"
    ).strip()


def fill(folder: Path, pictures: str = "images") -> Path:
    """Lay the files out as Kaggle does; article 26 has no picture."""
    folder.mkdir(parents=True)
    (folder / "transactions_train.csv").write_text(transactions())
    (folder / "articles.csv").write_text(articles())
    for number in (*range(1, 26), 27):
        path = folder / pictures / article(number)[:3] / f"{article(number)}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return folder
