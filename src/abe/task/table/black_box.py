"""Functions of rows, such as estimators of scikit-learn, as modules whose features are presence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abe.arrays import from_numpy
from abe.errors import Code, ModelError, SpecError
from abe.task.outputs import OutputKind
from abe.task.table.rows import Background, Columns, is_frame

ASKED = ("predict_proba", "decision_function", "predict")
"""What an estimator is asked for, the first that it has."""


class BlackBox(nn.Module):
    """A function of rows, with a number for every column that says whose value it shows.

    Features are *presence* (n, units): 1 shows the row's own value, 0 the typical one of the background, and
    −1 − k that of background row k.

    Args:
        function: takes rows in the form of the background, gives (n, classes) or (n,).
        columns: of the table.
        background: whose rows stand in.
        form: makes rows what the function takes.
    """

    known: Tensor
    unit_of: Tensor

    def __init__(
        self,
        function: Callable[[Any], Any],
        columns: Columns,
        background: Background,
        form: Callable[[np.ndarray], Any],
    ) -> None:
        super().__init__()
        self.function, self.columns, self.form = function, columns, form
        known = np.concatenate([background.typical[None], background.rows])
        self.register_buffer("known", torch.from_numpy(known))  # row 0 is the typical one
        self.register_buffer("unit_of", torch.tensor(columns.unit_of()))
        self.eval()

    def forward(self, presence: Tensor, rows: Tensor) -> Tensor:
        """(n, classes) of the rows (n, columns) with some columns shown from elsewhere."""
        if presence.requires_grad:
            raise ModelError(
                Code.NOT_DIFFERENTIABLE,
                "The model is a function from outside, which has no gradient",
                got=getattr(self.function, "__qualname__", type(self.function).__name__),
                fix="Choose a removal method, such as shapley, kernel_shap, occlusion or lime, or pass the "
                "PyTorch module itself",
            )
        source = torch.where(presence == 1, 0, -presence)
        between = (source != source.round()) | (source < 0) | (source >= len(self.known))
        if bool(between.any()):
            raise ModelError(
                Code.UNSUPPORTED,
                "A column of a function from outside is shown or not, nothing in between",
                got=f"presence {float(presence[between][0]):.3g}",
                fix="Choose a method that removes whole columns, such as shapley, occlusion or lime",
            )
        own = (presence == 1)[:, self.unit_of]
        shown = torch.where(
            own, rows, self.known[source.long()[:, self.unit_of], torch.arange(rows.shape[1])]
        )
        return self._numbers(self.function(self.form(shown.cpu().numpy())), len(rows))

    def _numbers(self, found: Any, n: int) -> Tensor:
        if isinstance(found, Tensor):
            return found.detach().to(self.known)
        array = np.asarray(found)
        if array.dtype.kind not in "biuf":
            raise ModelError(
                Code.OUTPUT_TYPE,
                "The function does not return numbers",
                got=f"{array.dtype} such as {array.ravel()[:1].tolist()}",
                expected=f"an array ({n}, classes), or ({n},)",
                fix="Pass predict_proba, or a function that returns scores",
            )
        return from_numpy(array.astype(np.float64))


class Form:
    """Makes rows of numbers what the user's function takes: what the background was.

    Args:
        columns: of the table.
        like: the background as it was given.
    """

    def __init__(self, columns: Columns, like: Any) -> None:
        self.columns, self._frame, self._tensor = columns, None, None
        self._types: dict[Any, Any] = {}
        if is_frame(like):
            self._frame = type(like)
            self._types = {name: getattr(like[name], "dtype", None) for name in columns.names}
        elif isinstance(like, Tensor):
            self._tensor = like.dtype

    def __call__(self, rows: np.ndarray) -> Any:
        named = [self.columns.named(rows, place) for place in range(len(self.columns.names))]
        if self._frame is not None:
            held = dict(zip(self.columns.names, named, strict=True))
            frame = self._frame(held)
            return self._typed(frame) if hasattr(frame, "astype") else frame
        if self._tensor is not None:
            return torch.from_numpy(np.stack(named, axis=1)).to(self._tensor)
        text = any(column.dtype.kind not in "biuf" for column in named)
        return np.stack([column.astype(object) if text else column for column in named], axis=1)

    def _typed(self, frame: Any) -> Any:
        """Columns in the types that they had, where their values allow it."""
        kept = dict[Any, Any]()
        for name, kind in self._types.items():
            values = frame[name]
            number = getattr(kind, "kind", "O") in "biu"
            if not number or bool((values == values.round()).all()):
                kept[name] = kind
        return frame.astype(kept)


def answers_of(model: Any) -> tuple[Callable[[Any], Any], OutputKind, list[str] | None]:
    """What to call for scores, what they are, and names of the classes.

    Raises:
        SpecError: this is neither a function nor an estimator, or one that gives names instead of scores.
    """
    if isinstance(model, type):
        raise SpecError(
            Code.BAD_PARAMETER,
            "A class is no model",
            got=model.__name__,
            fix=f"Make and fit one first, for example {model.__name__}().fit(rows, answers)",
        )
    classes = getattr(model, "classes_", None)
    method = next((name for name in ASKED if callable(getattr(model, name, None))), None)
    if method is None:
        if not callable(model):
            raise SpecError(
                Code.BAD_PARAMETER,
                "A table task explains a PyTorch module, an estimator, or a function of rows",
                got=type(model).__name__,
            )
        owner = getattr(model, "__self__", None)
        called, classes = getattr(model, "__name__", ""), getattr(owner, "classes_", None)
        if called not in ASKED:
            return model, "auto", None
        function, method = model, called
    else:
        function = getattr(model, method)
    if method == "predict_proba":
        return function, "probabilities", _names(classes)
    if method == "decision_function":
        binary = classes is not None and len(classes) == 2
        return function, "sigmoid" if binary else "logits", _names(classes)
    if classes is not None:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The classifier gives names of classes and no scores",
            got=type(getattr(model, "__self__", model)).__name__,
            fix="Fit it so that it has predict_proba, or wrap it in scikit-learn's CalibratedClassifierCV",
        )
    return function, "regression", None


def _names(classes: Any) -> list[str] | None:
    """Names of classes; none for several outputs with classes of their own."""
    if classes is None or (isinstance(classes, list) and classes and not np.isscalar(classes[0])):
        return None
    return [str(one) for one in classes]
