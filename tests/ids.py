"""Names of cases that are the same in every process: the workers of a parallel run must collect alike."""

import re


def shown(value: object) -> str:
    """What a value looks like, without its address and with sets in order."""
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    return re.sub(r" at 0x[0-9a-f]+", "", str(value) if isinstance(value, str) else repr(value))
