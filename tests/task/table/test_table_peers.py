"""Tables of pandas, and estimators of scikit-learn, as people have them."""

import numpy as np
import pytest
import torch
from tests.task.table.tables import CATEGORIES, MIXED, Apart, seeded

import abe

pytestmark = pytest.mark.peers
ANSWERS = ["no", "yes", "no", "yes", "yes"]


def test_frames_are_read_by_name_and_type() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(MIXED, index=list("abcde"))
    typed = frame.assign(colour=pandas.Categorical(frame.colour, categories=CATEGORIES["colour"]))
    plain = abe.table_task(seeded(Apart), background=MIXED, categories=CATEGORIES)
    wanted = abe.explain(plain, MIXED, "shapley", progress=False)
    task = abe.table_task(
        seeded(Apart), background=typed, categories={"colour": None, "size": CATEGORIES["size"]}
    )
    turned = typed[["income", "size", "colour", "age"]]
    found = abe.explain(task, turned, "shapley", progress=False)
    assert torch.equal(found.attribution, wanted.attribution)
    assert found.names == [f"row {label}" for label in "abcde"]
    (said,) = found.warnings  # and nothing of the order of the categories, which is the column's own
    assert "in the model's order by name: colour, age, size, income" in said
    assert abe.explain(task, typed, "shapley", progress=False).warnings == []
    one = abe.explain(task, frame.iloc[1], "shapley", progress=False)
    assert torch.allclose(one.attribution[0], wanted.attribution[1])
    gap = pandas.array([1, None, 3, 4, 5], dtype="Int64")
    with pytest.raises(abe.AbeError, match="nothing in row b"):
        abe.explain(task, frame.assign(age=gap), "shapley", progress=False)
    with pytest.raises(abe.AbeError, match="two columns called 'age'"):
        abe.explain(task, pandas.concat([frame, frame[["age"]]], axis=1), "shapley", progress=False)


def test_a_pipeline_gets_the_frame_that_it_was_fitted_to() -> None:
    pandas = pytest.importorskip("pandas")
    compose = pytest.importorskip("sklearn.compose")
    linear = pytest.importorskip("sklearn.linear_model")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    frame = pandas.DataFrame(MIXED)
    coded = compose.make_column_transformer(
        (preprocessing.OneHotEncoder(), ["colour", "size"]), remainder=preprocessing.StandardScaler()
    )
    model = pipeline.make_pipeline(coded, linear.LogisticRegression()).fit(frame, ANSWERS)
    task = abe.table_task(model, background=frame, categories=["colour", "size"])
    assert (task.output_kind, task.labels) == ("probabilities", ["no", "yes"])
    found = abe.explain(task, frame, "shapley", target="yes", objective="probability", progress=False)
    p = model.predict_proba(frame)[:, 1]
    assert np.allclose(found.attribution.sum(1).numpy(), p - p.mean())
    numbers = frame[["age", "income"]]
    line = linear.LinearRegression().fit(numbers, [1.0, 3.0, 2.0, 5.0, 1.0])
    task = abe.table_task(line, background=numbers)
    found = abe.explain(task, numbers, "shapley", progress=False)
    wanted = line.coef_ * (numbers - numbers.mean()).to_numpy()
    assert np.allclose(found.attribution.numpy(), wanted)
