"""What a small language model goes by: prompts whose decisive word is known, and how faithful maps are."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

import abe
from abe.metrics.evaluation.statistics import holm, intervals, sign_flip
from abe.task import zoo
from abe.task.base import Task
from studies.outcome import Outcome, Panel, Table
from studies.statistics import interval
from studies.tasks import Random


@dataclass(frozen=True)
class Prompt:
    """A prompt, what it goes on with and what it could, and the word that decides between the two."""

    text: str
    answer: str
    other: str
    word: str

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where the words begin and end."""
        return [found.span() for found in re.finditer(r"\S+", self.text)]


PROMPTS = (
    Prompt("The capital of France is", " Paris", " London", "France"),
    Prompt("The capital of Italy is", " Rome", " Paris", "Italy"),
    Prompt("The capital of Japan is", " Tokyo", " Beijing", "Japan"),
    Prompt("The opposite of hot is", " cold", " small", "hot"),
    Prompt("A baby cat is called a", " kitten", " puppy", "cat"),
    Prompt("The day after Monday is", " Tuesday", " Friday", "Monday"),
    Prompt("In Germany people speak", " German", " French", "Germany"),
    Prompt("The chemical symbol for gold is", " Au", " Ag", "gold"),
    Prompt("My sister said that", " she", " he", "sister"),
    Prompt("The color of blood is", " red", " blue", "blood"),
)
"""Prompts, answers and words were written down before the model was asked, the other answers after the count
by log p(answer) had been seen. The last word of each prompt is where the answer is read."""
SHAPLEY, CONTROL = "shapley", "random"
RIVALS = (CONTROL, "integrated_gradients", "gradient_x_input", "attention_rollout")
OTHERS = ("occlusion", "deeplift", "attention_lrp")
DROP = ("aopc", {"curve": "log_probability"})
"""Mean loss of log p(answer) while words are taken away, the most important first."""
METRIC = "aopc"
LEVEL = 0.05
REMOVALS = ("attention", "delete", "reference_token")
"""How a word is taken away: nobody attends to it, it is deleted, or the padding token stands in its place."""


def run(full: bool = False) -> Outcome:
    """SmolLM2 and ten prompts.

    Exact Shapley values say which word leads: of log p(answer) − log p(other answer), which says why this
    answer and not that one, and of log p(answer) alone, which every word raises that leads up to an answer of
    that kind; by three ways to take words away. Whatever is done to the last word moves log p(answer) most,
    because the answer is read there; the question is about the others, so it stays, but for one count.

    Every method's map is judged by what the log-probability of the answer loses, and told from Shapley by
    paired tests, corrected for as many methods as there are beside it. In full three further ones are judged.
    """
    methods = (*RIVALS, *(OTHERS if full else ()))
    return reported(zoo.load("smollm2"), PROMPTS, methods)


def reported(task: Task, prompts: tuple[Prompt, ...], methods: tuple[str, ...]) -> Outcome:
    """The study of a task and prompts."""
    by = {name: [lead(task, one, removal=name, contrast=True) for one in prompts] for name in REMOVALS}
    alone = {name: [lead(task, one, removal=name) for one in prompts] for name in REMOVALS}
    with_last = [lead(task, one, last=True) for one in prompts]
    drops = faithful(task, prompts, (SHAPLEY, *methods))
    tests = tested(drops)
    better = [name for name, test in tests.items() if test.better]
    return Outcome(
        tables=[_leads(by[REMOVALS[0]], alone[REMOVALS[0]]), _counts(by, alone), _drops(drops, tests)],
        findings=[
            "The decisive word leads by exact Shapley values of the contrast in "
            f"{_led(by[REMOVALS[0]])} prompts, by those of log p(answer) in {_led(alone[REMOVALS[0]])}, "
            "where nobody attends to absent words; by log p(answer) with the padding token in their place, "
            f"the last word among them, in {_led(with_last)}.",
            f"Shapley loses more log-probability than {', '.join(better) or 'none of the others'} (paired "
            "sign-flip tests, Holm's correction, p ≤ 0.05).",
        ],
        panels=[
            Panel(
                "Loss of log p(answer), in nats",
                [(name, interval(values.tolist())) for name, values in drops.items()],
            )
        ],
        values={
            **{f"place of the decisive word, contrast, {n}": [one.rank for one in x] for n, x in by.items()},
            **{f"place of the decisive word, log p, {n}": [one.rank for one in x] for n, x in alone.items()},
            "place of the decisive word, log p, all words": [one.rank for one in with_last],
            **{f"loss, {name}": values.tolist() for name, values in drops.items()},
        },
        caption="Mean loss of the answer's log-probability while words are taken away, the most important "
        "first; 95 % bootstrap intervals over the prompts.",
    )


@dataclass(frozen=True)
class Lead:
    """The words of a prompt by their shares, and the place of the decisive one among them."""

    prompt: Prompt
    shares: list[tuple[str, float]]

    @property
    def rank(self) -> int:
        """1 where the decisive word has the largest share."""
        order = sorted(self.shares, key=lambda one: -one[1])
        return 1 + [word for word, _ in order].index(self.prompt.word)


def lead(
    task: Task,
    prompt: Prompt,
    *,
    removal: str = "reference_token",
    contrast: bool = False,
    last: bool = False,
) -> Lead:
    """Exact Shapley values of the words, with or without the last one, against the other answer or alone."""
    spans = prompt.places if last else prompt.places[:-1]
    method = abe.method(SHAPLEY, evaluations=2 ** len(spans) + 2, removal=removal)
    asked = {"against": prompt.other} if contrast else {}
    raw = (prompt.text, prompt.answer)
    made = abe.explain(task, raw, method, spans=spans, progress=False, **asked)
    return Lead(prompt, made.by_unit()[0])


def faithful(task: Task, prompts: tuple[Prompt, ...], methods: tuple[str, ...]) -> dict[str, Tensor]:
    """(n,) what log p(answer) loses by every method's maps, judged on the same rows.

    Shapley takes words away as the metric does, whose rows show the reference token.
    """
    shown = abe.method(SHAPLEY, removal="reference_token")
    own = {CONTROL: Random(), SHAPLEY: shown}
    sources = {name: own.get(name, name) for name in methods}
    found: dict[str, list[float]] = {name: [] for name in methods}
    for prompt in prompts:
        made = abe.evaluate(
            task,
            sources,
            [DROP],
            data=(prompt.text, prompt.answer),
            spans=prompt.places[:-1],
            step=1,
            progress=False,
        )
        for name in methods:
            found[name].append(float(made.scores[name][METRIC].mean))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def _leads(contrast: list[Lead], alone: list[Lead]) -> Table:
    rows = [
        (
            f"{one.prompt.text}{one.prompt.answer} (not{one.prompt.other})",
            one.prompt.word,
            str(one.rank),
            _said(one),
            str(other.rank),
            _said(other),
        )
        for one, other in zip(contrast, alone, strict=True)
    ]
    return Table(
        "Exact Shapley values of words, in nats",
        (
            "prompt and answer",
            "decisive word",
            "its place",
            "of the contrast",
            "its place",
            "of log p(answer)",
        ),
        rows,
        "Nobody attends to absent words; the last word stays.",
    )


def _counts(by: dict[str, list[Lead]], alone: dict[str, list[Lead]]) -> Table:
    return Table(
        "Prompts whose decisive word leads, by how words are taken away",
        ("removal", "by the contrast", "by log p(answer)"),
        [(name, _led(by[name]), _led(alone[name])) for name in REMOVALS],
    )


def _led(leads: list[Lead]) -> str:
    return f"{sum(one.rank == 1 for one in leads)} of {len(leads)}"


def _said(one: Lead) -> str:
    return ", ".join(f"{word} {share:.1f}" for word, share in one.shares)


@dataclass(frozen=True)
class Tested:
    """Shapley's loss less that of another method: mean, interval, corrected p."""

    difference: float
    interval: tuple[float, float]
    p: float

    @property
    def better(self) -> bool:
        """Whether Shapley loses more."""
        return self.p <= LEVEL and self.difference > 0


def tested(drops: dict[str, Tensor]) -> dict[str, Tested]:
    """Paired sign-flip tests of Shapley against each other method, with Holm's correction for these."""
    names = [name for name in drops if name != SHAPLEY]
    gaps = torch.stack([drops[SHAPLEY] - drops[name] for name in names], 1)
    corrected = holm(sign_flip(gaps, smallest=LEVEL / len(names)))
    ends = [(float(low), float(high)) for low, high in intervals(gaps)]
    found = zip(gaps.mean(0).tolist(), ends, corrected, strict=True)
    return {name: Tested(*one) for name, one in zip(names, found, strict=True)}


def _drops(drops: dict[str, Tensor], tests: dict[str, Tested]) -> Table:
    rows = [(SHAPLEY, f"{float(drops[SHAPLEY].mean()):.2f}", "", "", "")]
    for name, test in tests.items():
        low, high = test.interval
        gain = f"{test.difference:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(
            (name, f"{float(drops[name].mean()):.2f}", gain, f"{test.p:.2g}", "yes" if test.better else "")
        )
    return Table(
        "What log p(answer) loses while words are taken away, the most important first",
        ("method", "mean loss, nats", "Shapley's loss is larger by", "corrected p", "told apart"),
        rows,
        "Paired sign-flip tests over the prompts, Holm's correction for all of them.",
    )
