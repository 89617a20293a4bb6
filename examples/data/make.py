"""Writes the small data sets beside this file, anew and the same each time: `python examples/data/make.py`.

- `sentences.jsonl`: 400 short sentences about a thing, `text`, `words` and `label` (0 a complaint, 1 praise);
- `gestures.jsonl`: 300 movements of a hand, `path` (8 … 40 points x, y) and `label` (0 circle, 1 line, 2 zigzag);
- `temperature.csv`: 1500 hours of a made-up thermometer: degrees, and the hour of the day as sine and cosine;
- `flats.jsonl`: 600 flats to let: `size`, `rooms`, `district`, `text`; `rent` (in hundreds), `gone` (1: let within a
  week), `extras` (balcony, garden, lift, parking: 0 or 1 each), and `trust` (how sure the rent is, 0.2 … 1);
- `ratings.npz`: 600 people's ratings of 100 000 items as CSR parts `x.…`, and `y`, the taste that they follow (0 … 2);
- `orders.parquet`: 1200 orders: `postcode` (0 … 99 999), `device` (0 … 4), `pieces`, `price` of one, and `returned`;
- `visits.tfrecord`: 500 visits to a shop: `pages` (2 … 30 of 200), the `seconds` on each, and `bought`;
- `reviews/complaint/*.txt`, `reviews/praise/*.txt`: sentences like the first, a line each;
- `digits/0/*.png` … `digits/9/*.png`: 20 pictures of each digit, 8×8 in grey;
- `penguins.csv`: 344 penguins of the Palmer Archipelago, with missing values (Gorman, Williams and Fraser 2014; CC0);
- `seattle-weather.csv`: each day of 2012 to 2015 in Seattle (NOAA, public domain).

The digits are those that scikit-learn ships (UCI, "Optical Recognition of Handwritten Digits"); penguins and weather
are files of the packages `palmerpenguins` and `vega_datasets`, as they are. All the rest is made up here by formulas
and lists of words, so nobody owns it.
"""

import importlib.util
import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
THINGS = ["the phone", "this lamp", "the chair", "our tent", "the kettle", "my bicycle", "that book", "the radio"]
GOOD = ["works well", "is a joy to use", "never lets me down", "looks lovely", "was worth every penny", "feels solid"]
BAD = ["broke at once", "is a waste of money", "never worked", "looks cheap", "fell apart", "feels flimsy"]
WHEN = ["", "after a week", "since the first day", "every single time I take it out", "even in the rain", "so far"]
DISTRICTS = {"Harbour": 3.0, "Old Town": 5.0, "Hillside": 2.0, "Mill Quarter": 0.0}
EXTRAS = {
    "balcony": ["a sunny balcony", "with balcony"], "garden": ["a garden to share", "a garden behind the house"],
    "lift": ["the house has a lift", "a lift to every floor"], "parking": ["parking in the yard", "with parking"],
}  # fmt: skip
LACKS = {"balcony": "no balcony", "garden": "no garden", "lift": "no lift", "parking": "no parking"}
END = ["", "I would buy it again", "I told my friends", "and I sent a letter to the shop", "that is all I can say"]


def sentence(random: np.random.RandomState, label: int) -> str:
    """From templates; the endings say nothing of the label."""
    parts = [random.choice(some) for some in (THINGS, (BAD, GOOD)[label], WHEN, END)]
    return " ".join(part for part in parts if part)


def sentences(random: np.random.RandomState) -> None:
    """As text, and cut into words."""
    with (HERE / "sentences.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(400):
            label = int(random.randint(2))
            text = sentence(random, label)
            file.write(json.dumps({"text": text, "words": text.lower().split(), "label": label}) + "\n")


def gestures(random: np.random.RandomState) -> None:
    """Points along a figure, from a start, at a size and with a tremor of their own."""
    with (HERE / "gestures.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(300):
            label, length = int(random.randint(3)), int(random.randint(8, 41))
            t = np.linspace(0, 1, length)
            turn = 2 * math.pi * t
            figures = [
                (np.cos(turn) - 1, np.sin(turn)), (t, t), (t, np.abs((4 * t) % 2 - 1)),
            ]  # fmt: skip
            path = np.stack(figures[label], 1) * random.uniform(0.5, 1.5) + random.normal(0, 0.03, (length, 2))
            file.write(json.dumps({"path": path.round(3).tolist(), "label": label}) + "\n")


def temperature(random: np.random.RandomState) -> None:
    """A daily wave on a slow one, with noise that lasts some hours."""
    lines, noise = ["degrees,sine,cosine"], 0.0
    for hour in range(1500):
        noise = 0.9 * noise + random.normal(0, 0.3)
        day = 2 * math.pi * hour / 24
        degrees = 12 + 6 * math.sin(day - 2) + 4 * math.sin(day / 40) + noise
        lines.append(f"{degrees:.2f},{math.sin(day):.4f},{math.cos(day):.4f}")
    (HERE / "temperature.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def flats(random: np.random.RandomState) -> None:
    """A rent by size, rooms, district and extras; a balcony in a good district goes at once. Lacks may be told."""
    with (HERE / "flats.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(600):
            size, district = int(random.randint(25, 121)), str(random.choice(list(DISTRICTS)))
            rooms = max(1, size // 25 + int(random.randint(-1, 2)))
            extras = [int(random.randint(2)) for _ in EXTRAS]
            said = [
                str(random.choice(EXTRAS[name])) if there else LACKS[name]
                for name, there in zip(EXTRAS, extras, strict=True)
                if there or random.uniform() < 0.4
            ]
            random.shuffle(said)
            trust, fair = float(random.uniform(0.2, 1)), 0.12 * size + DISTRICTS[district] + 0.3 * rooms + sum(extras)
            rent = fair + random.normal(0, 1.0 / (4 * trust))
            gone = int(random.uniform() < (0.95 if extras[0] and district != "Mill Quarter" else 0.05))
            row = {"size": size, "rooms": rooms, "district": district, "text": ", ".join(["A flat", *said])}
            row |= {"rent": round(rent, 2), "gone": gone, "extras": extras, "trust": round(trust, 2)}
            file.write(json.dumps(row) + "\n")


def ratings(random: np.random.RandomState) -> None:
    """Two thirds of what somebody rates lies among the 500 items of a taste, the rest anywhere."""
    y = random.randint(0, 3, 600)
    rows = []
    for taste in y:
        count = random.randint(5, 30)
        own = 500 * taste + random.randint(0, 500, 2 * count // 3)
        rows.append(np.unique(np.concatenate([own, random.randint(0, 100_000, count - len(own))])))
    indices = np.concatenate(rows)
    arrays = {
        "x.data": random.randint(1, 6, len(indices)).astype("float32"), "x.indices": indices.astype("int32"),
        "x.indptr": np.cumsum([0, *map(len, rows)]).astype("int32"), "x.shape": np.array([600, 100_000]),
        "y": y.astype("int64"),
    }  # fmt: skip
    with zipfile.ZipFile(HERE / "ratings.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy", (2020, 1, 1, 0, 0, 0)), "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def orders(random: np.random.RandomState) -> None:
    """Whether an order comes back depends on where it goes to (60 of 100 000 postcodes), then on what it costs."""
    postcodes, leaning = random.randint(0, 100_000, 60), random.normal(0, 4, 60)
    where, pieces, price = random.randint(0, 60, 1200), random.randint(1, 6, 1200), random.gamma(4, 5, 1200)
    device = random.randint(0, 5, 1200)
    score = leaning[where] + 0.5 * (device - 2) + (pieces * price - 60) / 20
    columns = {
        "postcode": postcodes[where].astype("int32"), "device": device.astype("int8"),
        "pieces": pieces.astype("uint8"), "price": price.round(2).astype("float32"),
        "returned": (random.logistic(0, 0.5, 1200) < score).astype("int8"),
    }  # fmt: skip
    pq.write_table(pa.table(columns), HERE / "orders.parquet", row_group_size=300)


def visits(random: np.random.RandomState) -> None:
    """Those who look long at the pages below 40 buy."""
    with tf.io.TFRecordWriter(str(HERE / "visits.tfrecord")) as writer:
        for _ in range(500):
            length, keen = int(random.randint(2, 31)), random.uniform()
            pages = np.where(random.uniform(size=length) < keen, random.randint(0, 40, length), 0)
            pages = np.where(pages == 0, random.randint(40, 200, length), pages)
            bought = int(keen + random.normal(0, 0.1) > 0.5)
            features = {
                "pages": tf.train.Feature(int64_list=tf.train.Int64List(value=pages)),
                "seconds": tf.train.Feature(float_list=tf.train.FloatList(value=random.gamma(2, 10, length).round(1))),
                "bought": tf.train.Feature(int64_list=tf.train.Int64List(value=[bought])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))


def reviews(random: np.random.RandomState) -> None:
    """Three files of 50 lines in each of two folders."""
    for label, name in enumerate(("complaint", "praise")):
        folder = HERE / "reviews" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            lines = [sentence(random, label) for _ in range(50)]
            (folder / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def digits(random: np.random.RandomState) -> None:
    """Some of each digit, in the order of the original."""
    images, labels = load_digits(return_X_y=True)
    for digit in range(10):
        folder = HERE / "digits" / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(random.permutation(np.flatnonzero(labels == digit))[:20]):
            picture = (images[index].reshape(8, 8, 1) * 15).astype("uint8")
            (folder / f"{number:02}.png").write_bytes(tf.io.encode_png(picture).numpy())


def as_they_are() -> None:
    """Copies of files that packages bring."""
    for package, file in (("palmerpenguins", "data/penguins.csv"), ("vega_datasets", "_data/seattle-weather.csv")):
        (folder,) = importlib.util.find_spec(package).submodule_search_locations
        shutil.copyfile(Path(folder, file), HERE / Path(file).name)


if __name__ == "__main__":
    as_they_are()
    made = (sentences, gestures, temperature, ratings, orders, visits, reviews, digits)
    for seed, make in (*enumerate(made), (4, flats)):
        make(np.random.RandomState(seed))
