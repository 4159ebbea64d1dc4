"""Prints the table of docs/numerics.md: `python -m byzjax._numerics.table`."""

from byzjax._numerics import FORMS, thresholds
from byzjax._program import prints


def table() -> str:
    """Markdown, one line per entry of `FORMS`."""
    lines = [
        "| quantity | where | form | constants | measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for form in FORMS:
        names = ", ".join(f"`{name}` = {getattr(thresholds, name)}" for name in form.names)
        lines.append(
            f"| {form.quantity} | {form.where} | {form.form} | {names} | {form.measured} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    prints("Prints the table of docs/numerics.md.", {"": table})
