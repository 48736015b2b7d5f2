"""What an installed wheel can do, in a minute, with nothing but what it brought: `python -I smoke.py core`.

Run by the Python of the environment, from anywhere; imports neither the source tree nor a package of the
tests. ``core`` runs every method, attack and metric on small nets, and what leans on PyTorch's younger or
underscored parts. ``report`` needs ``[report]``: a figure, a page, and the commands in the shell.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.checkpoint import checkpoint

import abe
from abe.errors import AbeError, Code, PackageError
from abe.registry import methods, metrics, updates
from abe.robustness import train_advgan
from abe.testing import check_method, check_metric, nets, samples, task_of

ONE_STEP = ("fgsm", "advgan")
FAILED: list[str] = []
QUIET: dict[str, Any] = {"progress": False, "target": 1}
OWN = """
import torch
from abe.testing import nets
def net():
    return nets.Convolutional().eval()
def task():
    import abe
    return abe.image_task(net(), size=6, channels=3, output_kind="logits")
"""


def tried(what: str, run: Callable[[], object]) -> None:
    """Run one thing; a failure is told and kept for the end."""
    try:
        run()
    except Exception as problem:
        cause = problem.__cause__ or problem
        if isinstance(cause, PackageError) and "abe-xai[" in str(cause):
            print(f"{what}: {cause}", flush=True)  # as it should be where the extra is not installed
            return
        FAILED.append(what)
        print(f"FAILED {what}: {type(cause).__name__}: {cause}", flush=True)


def stop(holds: bool, what: object) -> None:
    if not holds:
        raise RuntimeError(str(what))


def refused(code: Code, net: torch.nn.Module, method: str) -> None:
    """A net must be refused with a code, by a sentence about it."""
    try:
        abe.explain(task_of(net.eval()), samples(2), method, **QUIET)
    except AbeError as problem:
        stop(problem.code is code, problem)
    else:
        raise RuntimeError("not refused")


class Transformed(nets.Convolutional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda one: super(Transformed, self).forward(one[None])[0])(x)


class Differentiated(nets.Convolutional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out + torch.func.grad(lambda h: h.square().sum())(out)


class Checkpointed(nets.Convolutional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def attacked(name: str, folder: Path) -> None:
    """An attack on an ordinary net; a generative one is trained first."""
    task, x = task_of(nets.Convolutional().eval()), samples(3).float()
    settings: dict[str, Any] = {}
    if "training data" in updates.get(name).card.needs:
        made = train_advgan(task, x, folder / "generator.safetensors", epochs=1, batch=3)
        settings = {"checkpoint": made.checkpoint}
    elif updates.get(name).required():
        settings = {**updates.get(name).card.example, "layer": "features"}
    steps = {} if name in ONE_STEP else {"steps": 2}
    found = abe.attack(task, x, name, progress=False, **steps, **settings)
    stop(bool(found.x_adv.isfinite().all()), "not finite")


def compiled() -> None:
    """A compiled model runs uncompiled under rules and hooks; the compiler itself is not needed for that."""
    net = nets.Convolutional().eval()
    plain = abe.explain(task_of(net), samples(2).float(), "lrp_epsilon", **QUIET)
    wrapped = torch.compile(net)
    found = abe.explain(task_of(wrapped), samples(2).float(), "lrp_epsilon", **QUIET)
    stop(torch.equal(found.attribution, plain.attribution), "another map")


def fitted(name: str, folder: Path) -> None:
    task, x = task_of(nets.Convolutional().eval()), samples(4).float()
    made = abe.fit(task, x, name, epochs=1, **({"layer": "features"} if name == "iba" else {}))
    made.save(folder / f"{name}.safetensors")
    abe.explain(task, x, abe.load_fitted(folder / f"{name}.safetensors"), **QUIET)


def core(folder: Path) -> None:
    """Every method, attack and metric."""
    for name in methods.names():
        tried(f"method {name}", lambda name=name: check_method(name, only=["dtype", "spec"]))
    for name in abe.list_attacks():
        tried(f"attack {name}", lambda name=name: attacked(name, folder))
    for name in metrics.names():
        tried(f"metric {name}", lambda name=name: check_metric(name, only=["dtype", "channels"]))
    for name in ("rtis", "l2x", "cxplain", "iba"):
        tried(f"fitted {name}", lambda name=name: fitted(name, folder))
    for net in (Transformed, Differentiated):
        made = net(dtype=torch.float64)
        tried(f"{net.__name__} under rules", lambda made=made: refused(Code.HIDDEN_BACKWARD, made, "lrp_0"))
        tried(net.__name__, lambda made=made: abe.explain(task_of(made), samples(2), "ig", **QUIET))
    under = Checkpointed(dtype=torch.float64)
    tried("checkpoint under rules", lambda: refused(Code.HIDDEN_BACKWARD, under, "deeplift"))
    tried("compiled", compiled)
    tried("saved", lambda: saved(folder / "maps"))
    print(
        f"{len(methods.names())} methods, {len(abe.list_attacks())} attacks, {len(metrics.names())} metrics"
    )


def saved(folder: Path) -> None:
    made = abe.explain(task_of(nets.Smooth()), samples(2), "ig", **QUIET)
    again = abe.Explanation.load(made.save(folder))
    stop(np.array_equal(np.asarray(again), np.asarray(made)), "another map came back")


def report(folder: Path) -> None:
    """Figure, page, and the commands on a photograph."""
    rows = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(rows).save(folder / "photo.png")
    (folder / "own.py").write_text(OWN)
    explained = json.loads(command(folder, "explain", "photo.png", "-m", "own:task", "-k", "ig", "--json"))
    stop(explained[0]["method"] == "integrated_gradients", explained)
    asked = ("compare", "photo.png", "-m", "own:task", "--methods", "ig,gradient", "--step", "20%")
    table = json.loads(command(folder, *asked, "--json", "--out", "compared"))
    stop({row["method"] for row in table["ranking"]} == {"integrated_gradients", "gradient"}, table)
    command(folder, *asked, "--out", "page")
    page = (folder / "page" / "comparison.html").read_text(encoding="utf-8")
    stop("<html" in page and "integrated_gradients" in page, page[:500])
    command(folder, "explain", "photo.png", "-m", "own:task", "-k", "ig", "--save", "--out", "maps")
    stop(len(list((folder / "maps").rglob("*.png"))) > 0, "no figure was drawn")
    made = abe.explain(task_of(nets.Smooth()), samples(2), "ig", **QUIET)
    made.plot(folder / "plot.png")
    stop((folder / "plot.png").stat().st_size > 1000, "an empty figure")


def command(folder: Path, *words: str) -> str:
    """What `abe` prints, run in a folder as a user would; anything but success is an error."""
    abe_command = Path(sys.executable).with_name("abe")
    done = subprocess.run(
        [abe_command, *words], cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    stop(done.returncode == 0, f"abe {' '.join(words)}: exit code {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def main() -> None:
    """Run the part that is named on the command line; the exit code says whether all went well."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    part = {"core": core, "report": report}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        if part is report:
            tried("report", lambda: report(Path(folder)))
        else:
            part(Path(folder))
    found = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pillow"))
    print(f"{sys.argv[1]}: Python {sys.version.split()[0]}, {found}: {len(FAILED)} failed")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
