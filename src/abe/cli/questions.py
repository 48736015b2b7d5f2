"""What is asked about samples at the command line, as `abe.explain` takes it."""

import re
from typing import Any

from abe.cli.inputs import numbers, short
from abe.cli.options import QuestionOptions
from abe.errors import Code, SpecError

_SEGMENTATION, _DETECTOR = ("a segmentation", "segmentation_task"), ("a detector", "detection_task")
OF = {
    **dict.fromkeys(("at", "region", "against", "label"), _SEGMENTATION),
    **dict.fromkeys(("detection", "box", "part"), _DETECTOR),
    **dict.fromkeys(("generate", "answer"), ("a language model", "language_task")),
}
"""Option -> what is asked it, and what makes its task."""


def asked_of(task: Any, question: QuestionOptions) -> dict[str, Any]:
    """What is asked of a segmentation, a detector or a language model, as `abe.explain` takes it.

    Raises:
        SpecError: the model is asked nothing of the kind, or a pixel, box or detection is not in numbers.
    """
    from abe import arrays

    found: dict[str, Any] = {}
    if question.at is not None:
        places = question.at.split(",")
        if len(places) != 2 or not all(re.fullmatch(" *[0-9]{1,9} *", one) for one in places):
            raise SpecError(
                Code.BAD_PARAMETER,
                "--at takes a pixel",
                got=repr(short(question.at)),
                expected="ROW,COLUMN: 40,60",
            )
        found["at"] = int(places[0]), int(places[1])
    for name, text in (("label", question.label), ("against", question.against)):
        if text is not None:
            named = {"caption", "generate"}.intersection(task.asks) or not re.fullmatch("[0-9]{1,9}", text)
            found[name] = text if named else int(text)
    if question.generate is not None:
        if not re.fullmatch(" *[0-9]{1,6} *", question.generate):
            raise SpecError(
                Code.BAD_PARAMETER,
                "--generate takes a number of tokens",
                got=repr(short(question.generate)),
                expected="--generate 9",
            )
        found["generate"] = int(question.generate)
    if question.detection is not None:
        found["detection"] = _detections(question.detection)
    if question.box is not None:
        found["box"] = numbers("box", question.box, 4)
    if question.part is not None:
        found["part"] = question.part
    named = [*found, *(["region"] if question.region else [])]
    strange = [name for name in named if name not in task.asks]
    strange += ["answer"] if question.answer is not None and "generate" not in task.asks else []
    if strange:
        who, maker = OF[strange[0]]
        raise SpecError(
            Code.UNSUPPORTED,
            f"Only {who} is asked about --{strange[0]}",
            got=f"a model of the modality {task.modality!r}",
            expected=", ".join(f"--{one}" for one in task.asks) or None,
            fix=f"Leave it out, or let the factory return abe.{maker}(…)",
        )
    if question.region is not None:
        region = arrays.read(question.region)["maps"]
        found["region"] = region.squeeze() if region.ndim > 2 else region
    return found


def _detections(text: str) -> Any:
    """Numbers of detections, or all."""
    if text == "all":
        return text
    parts = text.split(",")
    if not all(re.fullmatch(" *[0-9]{1,9} *", one) for one in parts):
        raise SpecError(
            Code.BAD_PARAMETER,
            "--detection takes numbers",
            got=repr(short(text)),
            expected="0, several as 0,2, or all",
        )
    return [int(one) for one in parts]
