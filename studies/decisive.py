"""What a small language model goes by: prompts whose decisive word is known, and how faithful maps are."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

import abe
from abe.metrics.evaluation.statistics import PairedTest, paired_tests
from abe.task import zoo
from abe.task.base import Task
from studies.outcome import Outcome, Panel, Table
from studies.statistics import interval
from studies.tasks import Random


@dataclass(frozen=True)
class Prompt:
    """A prompt, what it goes on with, and the word that decides that."""

    text: str
    answer: str
    word: str

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where the words begin and end."""
        return [found.span() for found in re.finditer(r"\S+", self.text)]


PROMPTS = (
    Prompt("The capital of France is", " Paris", "France"),
    Prompt("The capital of Italy is", " Rome", "Italy"),
    Prompt("The capital of Japan is", " Tokyo", "Japan"),
    Prompt("The opposite of hot is", " cold", "hot"),
    Prompt("A baby cat is called a", " kitten", "cat"),
    Prompt("The day after Monday is", " Tuesday", "Monday"),
    Prompt("In Germany people speak", " German", "Germany"),
    Prompt("The chemical symbol for gold is", " Au", "gold"),
    Prompt("My sister said that", " she", "sister"),
    Prompt("The color of blood is", " red", "blood"),
)
"""Written down before the model was asked. The last word of each is where the answer is read."""
SHAPLEY, CONTROL = "shapley", "random"
RIVALS = (CONTROL, "integrated_gradients", "gradient_x_input", "attention_rollout")
OTHERS = ("occlusion", "deeplift", "attention_lrp")
DROP = ("aopc", {"curve": "log_probability"})
"""Mean loss of log p(answer) while words are taken away, the most important first."""
METRIC = "aopc"


def run(full: bool = False) -> Outcome:
    """SmolLM2 and ten prompts; words stand for themselves or for the padding token.

    Exact Shapley values say which word leads, of all words and of all but the last one. Whatever replaces the
    last word moves the answer most, because the answer is read there; the question is about the others, so it
    stays. Every method's map is judged by what the log-probability of the answer loses, and told from Shapley
    by paired tests, corrected for all pairs of methods. In full three further methods are judged.
    """
    methods = (*RIVALS, *(OTHERS if full else ()))
    return reported(zoo.load("smollm2"), PROMPTS, methods)


def reported(task: Task, prompts: tuple[Prompt, ...], methods: tuple[str, ...]) -> Outcome:
    """The study of a task and prompts."""
    leads = [(lead(task, one, last=False), lead(task, one, last=True)) for one in prompts]
    drops = faithful(task, prompts, (SHAPLEY, *methods))
    tests = {
        test.second: test
        for test in paired_tests({n: {METRIC: v} for n, v in drops.items()}, {METRIC: "higher"})
        if test.first == SHAPLEY
    }
    led, led_of_all = (sum(pair[which].rank == 1 for pair in leads) for which in (0, 1))
    better = [name for name, test in tests.items() if test.verdict == "better"]
    return Outcome(
        tables=[_leads([one for one, _ in leads]), _drops(drops, tests)],
        findings=[
            f"The decisive word leads by exact Shapley values in {led} of {len(leads)} prompts, and in "
            f"{led_of_all} where the last word, at which the answer is read, is a unit as well.",
            f"Shapley loses more log-probability than {', '.join(better) or 'none of the others'} (paired "
            " sign-flip tests, Holm's correction for all pairs, p ≤ 0.05).",
        ],
        panels=[
            Panel(
                "Loss of log p(answer), in nats",
                [(name, interval(values.tolist())) for name, values in drops.items()],
            )
        ],
        values={
            "place of the decisive word": [one.rank for one, _ in leads],
            "its place among all words": [one.rank for _, one in leads],
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


def lead(task: Task, prompt: Prompt, *, last: bool) -> Lead:
    """Exact Shapley values of the words, with or without the last one."""
    spans = prompt.places if last else prompt.places[:-1]
    method = abe.method(SHAPLEY, evaluations=2 ** len(spans) + 2)
    made = abe.explain(task, (prompt.text, prompt.answer), method, spans=spans, progress=False)
    return Lead(prompt, made.by_unit()[0])


def faithful(task: Task, prompts: tuple[Prompt, ...], methods: tuple[str, ...]) -> dict[str, Tensor]:
    """(n,) what log p(answer) loses by every method's maps, judged on the same rows."""
    sources = {name: Random() if name == CONTROL else name for name in methods}
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


def _leads(leads: list[Lead]) -> Table:
    rows = [
        (
            f"{one.prompt.text}{one.prompt.answer}",
            one.prompt.word,
            str(one.rank),
            ", ".join(f"{word} {share:.1f}" for word, share in one.shares),
        )
        for one in leads
    ]
    return Table(
        "Exact Shapley values of words, in nats of log p(answer)",
        ("prompt and answer", "decisive word", "its place", "shares"),
        rows,
        "Absent words are the padding token; the last word stays.",
    )


def _drops(drops: dict[str, Tensor], tests: dict[str, PairedTest]) -> Table:
    rows = [(SHAPLEY, f"{float(drops[SHAPLEY].mean()):.2f}", "", "", "")]
    for name, test in tests.items():
        low, high = test.interval
        gain = f"{test.difference:.2f} [{low:.2f}, {high:.2f}]"
        rows.append((name, f"{float(drops[name].mean()):.2f}", gain, f"{test.corrected:.2g}", test.verdict))
    return Table(
        "What log p(answer) loses while words are taken away, the most important first",
        ("method", "mean loss, nats", "Shapley's loss is larger by", "corrected p", "Shapley is"),
        rows,
        "Paired sign-flip tests over the prompts, Holm's correction for all pairs of methods.",
    )
