"""Nothing that a user may lack is imported: tasks run without it, with it, and where only one is there.

Each line runs in an interpreter of its own, which cannot import what is named and may not open a socket.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

OPTIONAL = ("transformers", "tokenizers", "torchvision", "timm", "pandas", "sklearn", "pyarrow", "skimage")
"""What people may have beside ABE: imported for their own objects only."""
START = """
import json, socket, sys
blocked = set(json.loads(sys.argv[1]))

class Finds:  # in place of what looks through folders; what is blocked is then as what is not installed
    def __init__(self, inner):
        self.inner = inner

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.inner.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.inner, name)

sys.meta_path[:] = [Finds(one) for one in sys.meta_path]

def closed(*args):
    raise AssertionError(f"a socket was connected: {args[1:]}")

socket.socket.connect = closed
import abe, torch
from torch import nn

def there():
    return sorted(set(sys.modules) & set(json.loads(sys.argv[2])))

assert not there(), there()
quiet = {"progress": False}
torch.set_num_threads(1)
"""
OWN = """
class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embed(ids).sum(1))

words = ["a", "fine", "film"]
text = abe.text_task(Bag(), lambda text: [words.index(word) for word in text.split()])
found = abe.explain(text, "a fine film", "shapley", **quiet)
assert [name for name, _ in found.by_unit()[0]] == words
net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
assert abe.explain(net, torch.rand(1, 3, 8, 8), "ig", **quiet).shape == (1, 3, 8, 8)
rows = {"age": [20.0, 60.0], "income": [1.0, 3.0]}
table = abe.table_task(nn.Linear(2, 2), background=rows)
assert abe.explain(table, rows, "shapley", **quiet).unit_names[0] == ["age", "income"]
series = abe.series_task(nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), "btc")
found = abe.explain(series, torch.rand(1, 12, 2), **quiet)
assert found.unit == "window_channel"
found = abe.explain(abe.segmentation_task(nn.Conv2d(3, 2, 1)), torch.rand(1, 3, 8, 8), "ig", **quiet)
assert found.shape == (1, 3, 8, 8)
assert not there(), there()
"""
WITHOUT = """
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "rows.csv"
    file.write_text("age,income\\n20,1\\n60,3\\n")
    assert abe.explain(table, file, "ig", **quiet).names[1].endswith("row 1")
    file = file.with_suffix(".parquet")
    file.write_bytes(b"PAR1")
    for call in (lambda: abe.explain(table, file, "ig", **quiet), lambda: found.to_frame()):
        try:
            call()
        except abe.AbeError as problem:
            assert problem.code == "ABE-MISSING-PACKAGE", problem
        else:
            raise AssertionError("no error at all")
"""
FACE = """
import transformers
config = transformers.BertConfig(
    vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)
model = transformers.BertForSequenceClassification(config)
found = abe.explain(abe.text_task(model), [[1, 2, 3]], "ig", **quiet)
assert found.shape == (1, 8, 3)
assert "torchvision" not in sys.modules
"""
VISION = """
from torchvision.models import resnet18
found = abe.explain(resnet18(weights=None, num_classes=3), torch.rand(1, 3, 32, 32), "gradient", **quiet)
assert found.shape == (1, 3, 32, 32)
assert "transformers" not in sys.modules
"""


def runs(code: str, *, blocked: Any = (), absent: Any = OPTIONAL) -> None:
    given = [json.dumps(sorted(names)) for names in (blocked, absent)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + code, *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_optional_is_needed() -> None:
    runs(OWN + WITHOUT, blocked=OPTIONAL)


def test_nothing_optional_is_imported_where_it_is_there() -> None:
    runs(OWN)


@pytest.mark.peers
def test_transformers_without_torchvision() -> None:
    pytest.importorskip("transformers")
    runs(OWN + FACE, blocked=["torchvision"])


def test_torchvision_without_transformers() -> None:
    pytest.importorskip("torchvision")
    runs(OWN + VISION, blocked=["transformers", "tokenizers"])
