"""Deselection of subjects in the quality report: check boxes, and a button to download the list."""

from __future__ import annotations

import html
from collections.abc import Iterator

LIST_NAME = "exclude.txt"

# Without JavaScript the controls would do nothing, so they are hidden until this runs.
SCRIPT = f"""
"use strict";
const boxes = [...document.querySelectorAll("label.use input")];
const button = document.querySelector("#choice button");
const deselected = () => boxes.filter(box => !box.checked).map(box => box.dataset.subject);
const show = () => {{
  const count = deselected().length;
  document.querySelector("#choice output").textContent =
    `${{count}} of ${{boxes.length}} deselected`;
  button.disabled = count === 0;
}};
button.addEventListener("click", () => {{
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([deselected().join("\\n") + "\\n"]));
  link.download = "{LIST_NAME}";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}});
for (const box of boxes) {{
  box.addEventListener("change", show);
  box.parentElement.hidden = false;
}}
document.querySelector("#choice").hidden = false;
show();
"""

STYLE = """
#choice { background: Canvas; border-bottom: 1px solid var(--line); padding: .4rem 0; }
#choice { position: sticky; top: 0; z-index: 1; }
.use { float: right; }
"""


def choice() -> Iterator[str]:
    """Yield the line with the button; it stays visible while scrolling."""
    yield (
        '<p id="choice" hidden>Deselect the subjects that you do not want to use. '
        "<button disabled>Download the list</button> <output></output>; then run "
        f"<code>famseg split DIR --exclude-list {LIST_NAME}</code>.</p>"
    )


def box(subject: str) -> str:
    """Return the checked box of a subject; the name is written to the list unchanged."""
    name = html.escape(subject)
    return (
        f'<label class="use" hidden><input type="checkbox" checked autocomplete="off" '
        f'data-subject="{name}" aria-label="use {name}"> use</label>'
    )
