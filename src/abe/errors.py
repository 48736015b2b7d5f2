"""One error hierarchy. Every message says what, got, expected and how to fix, and ends in a code.

The codes are the headings of ``docs/errors.md``; a test compares the two sets.
"""

import difflib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Stable identifiers of everything that ABE refuses or remarks on."""

    # inputs
    EMPTY_BATCH = "ABE-EMPTY-BATCH"
    NOT_FINITE_INPUT = "ABE-NOT-FINITE-INPUT"
    OUT_OF_BOUNDS = "ABE-OUT-OF-BOUNDS"
    SHAPE = "ABE-SHAPE"
    DTYPE = "ABE-DTYPE"
    DEVICE = "ABE-DEVICE"
    UNREADABLE_IMAGE = "ABE-UNREADABLE-IMAGE"
    BASELINE_SHAPE = "ABE-BASELINE-SHAPE"
    MAP_SHAPE = "ABE-MAP-SHAPE"
    MAP_NOT_FINITE = "ABE-MAP-NOT-FINITE"
    MASK = "ABE-MASK"
    LABELS = "ABE-LABELS"
    SAMPLES = "ABE-SAMPLES"
    IDS = "ABE-IDS"
    UNITS = "ABE-UNITS"
    DRAW = "ABE-DRAW"
    TOKENIZER = "ABE-TOKENIZER"
    TOO_LONG = "ABE-TOO-LONG"
    JOIN = "ABE-JOIN"
    UNREADABLE_TEXT = "ABE-UNREADABLE-TEXT"
    COLUMN = "ABE-COLUMN"
    CATEGORY = "ABE-CATEGORY"
    MISSING_VALUE = "ABE-MISSING-VALUE"
    BACKGROUND = "ABE-BACKGROUND"
    REGION = "ABE-REGION"
    PAIR = "ABE-PAIR"
    LOADING = "ABE-LOADING"
    UNCLEAR_INPUT = "ABE-UNCLEAR-INPUT"
    # targets
    TARGET_RANGE = "ABE-TARGET-RANGE"
    TARGET_MISSING = "ABE-TARGET-MISSING"
    TARGET_TYPE = "ABE-TARGET-TYPE"
    TARGET_REACHED = "ABE-TARGET-REACHED"
    # models
    NOT_A_MODULE = "ABE-NOT-A-MODULE"
    MODEL_FAILED = "ABE-MODEL-FAILED"
    OUTPUT_TYPE = "ABE-OUTPUT-TYPE"
    OUTPUT_SHAPE = "ABE-OUTPUT-SHAPE"
    OUTPUT_KIND = "ABE-OUTPUT-KIND"
    NOT_FINITE_OUTPUT = "ABE-NOT-FINITE-OUTPUT"
    NOT_FINITE_GRADIENT = "ABE-NOT-FINITE-GRADIENT"
    NOT_FINITE_WEIGHTS = "ABE-NOT-FINITE-WEIGHTS"
    NOT_DIFFERENTIABLE = "ABE-NOT-DIFFERENTIABLE"
    UNINITIALISED = "ABE-UNINITIALISED"
    INFERENCE_MODE = "ABE-INFERENCE-MODE"
    OPAQUE_MODEL = "ABE-OPAQUE-MODEL"
    OUT_OF_MEMORY = "ABE-OUT-OF-MEMORY"
    LAYER = "ABE-LAYER"
    EMBEDDING = "ABE-EMBEDDING"
    NO_SPATIAL_LAYER = "ABE-NO-SPATIAL-LAYER"
    NO_LINEAR_HEAD = "ABE-NO-LINEAR-HEAD"
    NO_ATTENTION = "ABE-NO-ATTENTION"
    RULE = "ABE-RULE"
    HIDDEN_BACKWARD = "ABE-HIDDEN-BACKWARD"
    RULE_CHANGED_OUTPUT = "ABE-RULE-CHANGED-OUTPUT"
    # specs
    UNKNOWN_NAME = "ABE-UNKNOWN-NAME"
    UNKNOWN_PARAMETER = "ABE-UNKNOWN-PARAMETER"
    BAD_PARAMETER = "ABE-BAD-PARAMETER"
    DUPLICATE_NAME = "ABE-DUPLICATE-NAME"
    NOT_A_VALUE = "ABE-NOT-A-VALUE"
    UNSUPPORTED = "ABE-UNSUPPORTED"
    PATH = "ABE-PATH"
    UPDATE = "ABE-UPDATE"
    OBJECTIVE = "ABE-OBJECTIVE"
    METRIC = "ABE-METRIC"
    EVALUATIONS = "ABE-EVALUATIONS"
    BUDGET = "ABE-BUDGET"
    # learning
    TRAINING_DATA = "ABE-TRAINING-DATA"
    FITTED = "ABE-FITTED"
    # storage and packages
    CORRUPT_FILE = "ABE-CORRUPT-FILE"
    FOREIGN_FILE = "ABE-FOREIGN-FILE"
    NOT_WRITTEN = "ABE-NOT-WRITTEN"
    MISSING_PACKAGE = "ABE-MISSING-PACKAGE"
    OLD_PACKAGE = "ABE-OLD-PACKAGE"
    # notes: kept in the result, nothing is refused
    PICTURE = "ABE-PICTURE"
    ASSUMED = "ABE-ASSUMED"
    SKIPPED = "ABE-SKIPPED"
    ABSENT_CLASS = "ABE-ABSENT-CLASS"
    CHOSEN_REGION = "ABE-CHOSEN-REGION"
    ASKED_REGION = "ABE-ASKED-REGION"
    NOTHING_FOUND = "ABE-NOTHING-FOUND"
    CHOSEN_CAPTION = "ABE-CHOSEN-CAPTION"
    OTHER_TARGET = "ABE-OTHER-TARGET"
    TRUNCATED = "ABE-TRUNCATED"
    ANSWER_ENDED = "ABE-ANSWER-ENDED"
    UNKNOWN_WORDS = "ABE-UNKNOWN-WORDS"
    PADDING_READ = "ABE-PADDING-READ"
    TRAINING_MODE = "ABE-TRAINING-MODE"
    COMPILED_MODEL = "ABE-COMPILED-MODEL"
    ZERO_MAP = "ABE-ZERO-MAP"
    NO_CHANGE = "ABE-NO-CHANGE"
    NO_NUMBER = "ABE-NO-NUMBER"
    NO_REACTION = "ABE-NO-REACTION"
    NOT_CROSSED = "ABE-NOT-CROSSED"
    TOLERANCE_NOT_REACHED = "ABE-TOLERANCE-NOT-REACHED"
    PROBABILITY_OUTPUT = "ABE-PROBABILITY-OUTPUT"
    COUPLED_ROWS = "ABE-COUPLED-ROWS"
    UNSTEADY_MODEL = "ABE-UNSTEADY-MODEL"
    CHOSEN_LAYER = "ABE-CHOSEN-LAYER"
    RULE_POLICY = "ABE-RULE-POLICY"
    INCOMPLETE = "ABE-INCOMPLETE"
    RESIDUAL = "ABE-RESIDUAL"
    CANCELLATION = "ABE-CANCELLATION"
    PATTERNS = "ABE-PATTERNS"
    OWN_STATISTICS = "ABE-OWN-STATISTICS"
    NO_LAYER = "ABE-NO-LAYER"
    BYPASSED_LAYER = "ABE-BYPASSED-LAYER"


class AbeError(Exception):
    """Base of every error ABE raises on purpose.

    Args:
        code: the identifier under which ``docs/errors.md`` explains the error.
        what: one sentence, what went wrong.
        got: what was found.
        expected: what would have been right.
        fix: what to do about it.
    """

    def __init__(
        self, code: Code, what: str, *, got: Any = None, expected: Any = None, fix: str | None = None
    ) -> None:
        self.code = code
        self.what = what
        self.got = got
        self.expected = expected
        self.fix = fix
        parts = [what.rstrip(".") + "."]
        if got is not None:
            parts.append(f"Got {str(got).removesuffix('.')}.")
        if expected is not None:
            parts.append(f"Expected {expected}.")
        if fix:
            parts.append(fix if fix.endswith("?") else fix.rstrip(".") + ".")
        super().__init__(" ".join(parts) + f" [{code.value}]")

    def __reduce__(self) -> tuple[Any, ...]:
        """From its parts: what an exception keeps by itself is the message alone."""
        got = None if self.got is None else str(self.got)
        return _again, (type(self), self.code, self.what, got, self.expected, self.fix)


class InputError(AbeError, ValueError):
    """The input, a baseline, a map or an identifier is unusable."""


class SampleError(AbeError, IndexError):
    """A sample is asked for that is not there, or in a way that names none."""


class TargetError(AbeError, ValueError):
    """The decision to explain is missing or does not exist."""


class ModelError(AbeError, RuntimeError):
    """The model cannot be run or differentiated as asked."""


class SpecError(AbeError, ValueError):
    """A method, metric, objective or parameter is unknown or invalid."""


class StorageError(AbeError, OSError):
    """A file could not be read or written."""


class PackageError(AbeError, ImportError):
    """A package is missing or too old."""


def _again(kind: type[AbeError], code: Code, what: str, got: Any, expected: Any, fix: str | None) -> AbeError:
    return kind(code, what, got=got, expected=expected, fix=fix)


def note(code: Code, message: str) -> str:
    """A remark kept in ``Explanation.warnings``: the message with its code."""
    return f"{message.rstrip('.')}. [{code.value}]"


def suggest(name: str, known: Iterable[str]) -> str:
    """A question for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else ""
