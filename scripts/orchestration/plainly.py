"""What the library that checks types says of a wrong value, in a person's words."""

import re

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a map",
    "null": "nothing",
    "date": "a date",
    "datetime": "a date with a time",
}
_BOUNDS = {"of length >=": "of at least length", "of length <=": "of at most length", ">=": "of at least"}
_BOUNDS |= {"<=": "of at most", ">": "above", "<": "below"}


def plainly(cause: str) -> str:
    """Return a cause such as "Expected `int | null`, got `str` - at `$[0]`" as "must be ..., not text (item 1)"."""
    text, _, place = cause.partition(" - at ")
    text = re.sub(r"Invalid enum value ('.*')", r"\1 is none of its words", text, flags=re.DOTALL)
    text = text.replace("Object missing required field", "lacks the key")
    text = re.sub(r"^Expected (?=\D)", "must be ", text).replace("`, got `", "`, not `")
    for sign, words in _BOUNDS.items():
        text = re.sub(rf"(?<=` ){re.escape(sign)} ", f"{words} ", text)
    kinds = re.compile(rf"`((?:{'|'.join(_KINDS)})(?: \| (?:{'|'.join(_KINDS)}))*)`")
    text = kinds.sub(lambda found: " or ".join(_KINDS[kind] for kind in found[1].split(" | ")), text)
    return text + _where(place)


def _where(place: str) -> str:
    if place.startswith("`key`"):
        return " (a key)"
    item = re.search(r"\[(\d+)\]`$", place)
    if item:
        return f" (item {int(item[1]) + 1})"
    path = place.strip("`").removeprefix("$").lstrip(".")
    return f" (at {path})" if path else ""
