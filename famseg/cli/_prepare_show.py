"""The output of ``famseg prepare``: its progress, and a summary at the end."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from famseg.cli._progress import counting, duration
from famseg.cli._say import say, say_json
from famseg.preparation import needs_a_look, report_row

if TYPE_CHECKING:
    from famseg.preparation import Outcome, Plan, Record, RunProgress


@contextmanager
def progress(plan: Plan, workers: int) -> Iterator[RunProgress]:
    """Show the progress on standard error: a bar on a terminal, lines in a log."""
    with counting("preparing") as count:
        for line in _opening(plan, workers):
            count.tell(line)
        if not count.drawn:
            yield _lines(count.tell)
            return
        count.update(0, len(plan.todo))

        def moved(record: Record, done: int, of: int) -> None:
            if record.status != "done":
                count.tell(f"{record.subject}  {record.status}: {record.reason}")
            count.update(done, of)

        yield moved


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print what the command would do."""
    if as_json:
        content: dict[str, Any] = {
            "folder": str(plan.folder.path),
            "layout": plan.layout,
            "prepare": [{"subject": s.subject, "origin": s.origin} for s in plan.todo],
            "unchanged": [r.subject for r in plan.unchanged],
            "refused": [_refusal(r) for r in plan.refused if r.status == "refused"],
            "left_out": [_refusal(r) for r in plan.refused if r.status == "left out"],
            "gone": list(plan.gone),
        }
        say_json(content)
        return
    for source in plan.todo:
        extra = f", with {len(source.companions)} more volumes" if source.companions else ""
        say(f"prepare    {source.subject}  ({source.origin}{extra})")
    for record in plan.unchanged:
        say(f"unchanged  {record.subject}")
    for record in plan.refused:
        say(f"{record.status:9}  {record.subject}  ({record.origin}): {record.reason}")
    refused = sum(record.status == "refused" for record in plan.refused)
    say(
        f"\nlayout {plan.layout}: {len(plan.todo)} to prepare, {len(plan.unchanged)} unchanged, "
        f"{refused} refused, {len(plan.refused) - refused} left out; nothing was written"
    )


def show_outcome(outcome: Outcome, seconds: float, *, as_json: bool) -> None:
    """Print what the command did."""
    if as_json:
        say_json(_as_dict(outcome, seconds))
        return
    folder = outcome.plan.folder
    say(_summary(outcome, seconds))
    say(f"\nreport       {folder.report}")
    say(f"table        {folder.table}")
    if not outcome.done:
        return
    if outcome.unusable:
        few = ", ".join(r.subject for r in outcome.unusable[:3])
        more = " ..." if len(outcome.unusable) > 3 else ""
        say(f"no skulls    {len(outcome.unusable)} are not in the manifest: {few}{more}")
    if len(outcome.unusable) == len(outcome.done):
        return
    say(f"manifest     {folder.manifest}")
    people, several = Counter(outcome.groups.values()), len(outcome.groups)
    if several > len(people):
        say(
            f"groups       {several} subjects are {len(people)} people: a split never divides a "
            "person"
        )
    root = shlex.quote(str(folder.path))
    say(f"split        famseg split {root}")
    say(f"train        famseg train --config skull_folder.yaml data.root={root}")


def unusable_because(record: Record) -> str:
    """Return why a subject is not in the manifest."""
    findings = record.quality.findings if record.quality else ()
    return " ".join(f.text for f in findings if f.severity == "unusable")


def _opening(plan: Plan, workers: int) -> Iterator[str]:
    for record in plan.refused:
        yield f"{record.subject}  {record.status}: {record.reason}"
    if plan.gone:
        few = ", ".join(plan.gone[:3]) + (" ..." if len(plan.gone) > 3 else "")
        yield (
            f"{len(plan.gone)} subjects of an earlier run are not in the source ({few}): they are "
            "left out of manifest and report; their files are kept"
        )
    processes = "1 process" if workers == 1 else f"{workers} processes"
    ready = f", {len(plan.unchanged)} are ready" if plan.unchanged else ""
    yield f"layout {plan.layout}: {len(plan.todo)} to prepare in {processes}{ready}"


def _lines(say: Any) -> RunProgress:  # noqa: ANN401 - prints a text
    began = time.monotonic()

    def line(record: Record, count: int, of: int) -> None:
        left = (time.monotonic() - began) / count * (of - count)
        say(f"{count}/{of}  {record.subject}  {_said(record)}  left {duration(left)}")

    return line


def _said(record: Record) -> str:
    if record.quality is None:
        return f"{record.status}: {record.reason}"
    look = "  look at it" if needs_a_look(record) else ""
    return f"{record.quality.volume_ml:.0f} ml{look}"


def _counts(outcome: Outcome) -> dict[str, int]:
    records = outcome.records
    return {
        "subjects": len(outcome.done) + len(outcome.undone),
        "done": len(outcome.done),
        "unchanged": len(outcome.plan.unchanged),
        "failed": sum(r.status == "failed" for r in records),
        "refused": sum(r.status == "refused" for r in records),
        "left_out": sum(r.status == "left out" for r in records),
        "worth_a_look": sum(needs_a_look(r) for r in outcome.done),
    }


def _summary(outcome: Outcome, seconds: float) -> str:
    counts = _counts(outcome)
    return (
        f"prepared {counts['done']} of {counts['subjects']} (unchanged: {counts['unchanged']}), "
        f"failed: {counts['failed']}, refused: {counts['refused']}, left out: "
        f"{counts['left_out']}, worth a look: {counts['worth_a_look']}; took {duration(seconds)}"
    )


def _as_dict(outcome: Outcome, seconds: float) -> dict[str, Any]:
    folder = outcome.plan.folder
    return {
        "folder": str(folder.path),
        "layout": outcome.plan.layout,
        "counts": _counts(outcome),
        "seconds": round(seconds, 1),
        "manifest": str(folder.manifest) if len(outcome.done) > len(outcome.unusable) else None,
        "not_in_manifest": [record.subject for record in outcome.unusable],
        "report": str(folder.report),
        "groups": dict(outcome.groups),
        "subjects": [report_row(record) for record in outcome.records],
    }


def _refusal(record: Record) -> dict[str, str]:
    return {"subject": record.subject, "origin": record.origin, "reason": record.reason}
