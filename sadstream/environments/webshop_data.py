"""WebShop's catalogue and goals, from the original data files' layout."""

import random
import re
from pathlib import Path
from typing import Any, NamedTuple

from sadstream.environments.json_files import packaged, read_json
from sadstream.errors import TaskError

# (products, attributes, goals); a `.gz` of each will do. The first whose products are there is read.
LAYOUTS = (
    ("items_mined.json", "items_ins_mined.json", "items_human_ins_mined.json"),
    ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"),
    ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json"),
)
NO_PRICE = 100.0
NO_CAP = 1_000_000.0
TENS = [10.0 * n for n in range(1, 100)]
# The order of goals is the original's: shuffled once with this seed; 500 to test, 1,000 to tune, the others to train.
ORDER_SEED = 233
N_TEST, N_DEV = 500, 1_000
SMALL_TEST_SHARE = 0.4


class Product(NamedTuple):
    """A product as its pages show it, and what the reward looks at.

    Attributes:
        price: in dollars; the lower end of a range, within which the original draws at each start.
        price_tag: as shown, `$p` or `$p to $q`.
        options: values by name, lower case, in the data's order.
        attributes: hidden words; what a goal's attributes are compared with.
        query, categories: hidden; a product that shares them with the goal's is of its type.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price: float
    price_tag: str
    options: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    query: str
    categories: frozenset[str]


class Goal(NamedTuple):
    """What a user wants: the instruction the agent reads, and what the reward asks for.

    Attributes:
        instruction: with the price cap, as shown.
        price_cap: in dollars.
    """

    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_cap: float


class Catalogue(NamedTuple):
    """Products by asin, in the data's order, and goals by task id, in the order of the benchmark."""

    products: dict[str, Product]
    goals: dict[str, Goal]

    def splits(self) -> dict[str, list[str]]:
        """Task ids of `test`, `dev` (of the full data only) and `train`.

        The full data are cut as the original does it, 500, 1,000 and the others; of fewer goals two fifths are the
        test.
        """
        ids = list(self.goals)
        if len(ids) > N_TEST + N_DEV:
            return {"test": ids[:N_TEST], "dev": ids[N_TEST : N_TEST + N_DEV], "train": ids[N_TEST + N_DEV :]}
        n_test = round(SMALL_TEST_SHARE * len(ids))
        return {"test": ids[:n_test], "train": ids[n_test:]}


def read_catalogue(folder: Path | None, *, seed: int) -> Catalogue:
    """The catalogue in a folder, or the one that comes along.

    Args:
        seed: draws the price caps that the data do not state.
    Raises:
        TaskError: a file is missing or damaged, or a row is not what it should be; names the place.
    """
    if folder is None:
        folder = packaged("webshop")
    items, attributes, humans = _find(folder)
    known = _table(attributes)
    products: dict[str, Product] = {}
    for n, row in enumerate(_list(items), 1):
        try:
            if row["asin"] != "nan" and len(row["asin"]) <= 10 and row["asin"] not in products:
                products[row["asin"]] = _product(row, known.get(row["asin"], {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _misfit(f"{items}: row {n}", error) from error
    wanted, goals = _table(humans), {}
    for asin, product in products.items():
        try:
            # The original leaves out goals without attributes.
            rows = [row for row in wanted.get(asin, ()) if row["instruction_attributes"]]
            for n, row in enumerate(rows):
                goals[f"{asin}-{n}"] = _goal(row, product, random.Random(f"{seed}:{asin}-{n}"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _misfit(f"{humans}: {asin}", error) from error
    if not goals:
        raise TaskError(f"{humans}: no goal for any product of {items.name}", hint="name files of one data set")
    order = list(goals)
    random.Random(ORDER_SEED).shuffle(order)
    return Catalogue(products, {task_id: goals[task_id] for task_id in order})


def _find(folder: Path) -> tuple[Path, Path, Path]:
    def present(name: str) -> Path | None:
        return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)

    for layout in LAYOUTS:
        if present(layout[0]) is None:
            continue
        paths = [present(name) for name in layout]
        missing = [name for name, path in zip(layout, paths, strict=True) if path is None]
        if missing:
            raise TaskError(f"{folder}: no {' and no '.join(missing)}", hint=f"it belongs to {layout[0]}")
        items, attributes, humans = (path for path in paths if path is not None)
        return items, attributes, humans
    raise TaskError(f"{folder}: no WebShop data", hint=f"put {', '.join(LAYOUTS[1])} in it")


def _table(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise _misfit(f"{path}", TypeError("an object by asin is wanted"))
    return value


def _list(path: Path) -> list[Any]:
    value = read_json(path)
    if not isinstance(value, list):
        raise _misfit(f"{path}", TypeError("an array of products is wanted"))
    return value


def _misfit(where: str, error: Exception) -> TaskError:
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    return TaskError(f"{where}: not WebShop's layout: {what}", hint="get the file again, or leave the row out")


def _product(row: dict[str, Any], known: dict[str, Any]) -> Product:
    bullets = row["small_description"]
    price, price_tag = _price(row.get("pricing"))
    options = {
        name.lower(): tuple(content["value"].strip().replace("/", " | ").lower() for content in contents)
        for name, contents in (row["customization_options"] or {}).items()
        if contents is not None
    }
    return Product(
        asin=row["asin"],
        title=row["name"],
        description=row["full_description"] or "",
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets or "",),
        price=price,
        price_tag=price_tag,
        options=options,
        attributes=tuple(known.get("attributes", ("DUMMY_ATTR",))),
        query=row["query"].lower().strip(),
        categories=frozenset(part.strip() for part in row["product_category"].split("›")),
    )


def _price(pricing: str | None) -> tuple[float, str]:
    prices = [float(re.sub(r"[^\d.]", "", part)) for part in (pricing or "").split("$")[1:]][:2]
    if not prices:
        return NO_PRICE, f"${NO_PRICE}"
    return min(prices), " to ".join(f"${price}" for price in prices)


def _goal(row: dict[str, Any], product: Product, random_: random.Random) -> Goal:
    cap = float(row.get("price_upper") or _draw_cap(product.price, random_))
    capped = f", and price lower than {cap:.2f} dollars" if cap < NO_CAP else ""
    return Goal(
        asin=product.asin,
        instruction=row["instruction"].strip(".") + capped,
        attributes=tuple(row["instruction_attributes"]),
        options=tuple(row["instruction_options"]),
        price_cap=cap,
    )


def _draw_cap(price: float, random_: random.Random) -> float:
    above = [ten for ten in TENS if ten > price][:4]
    return max(random_.sample(above, 2)) if len(above) >= 2 else NO_CAP
