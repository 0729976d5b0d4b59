from ._back import back_to_scan as back_to_scan
from ._back import to_source_of as to_source_of
from ._find import LAYOUTS as LAYOUTS
from ._find import Layout as Layout
from ._find import find_sources as find_sources
from ._page import needs_a_look as needs_a_look
from ._prepare import prepare_scan as prepare_scan
from ._record import Record as Record
from ._report import report_row as report_row
from ._run import Outcome as Outcome
from ._run import Plan as Plan
from ._run import RunProgress as RunProgress
from ._run import plan_run as plan_run
from ._run import prepare_folder as prepare_folder
from ._settings import Settings as Settings
from ._splitting import Splitting as Splitting
from ._splitting import split_folder as split_folder
from ._types import Companion as Companion
from ._types import Found as Found
from ._types import Prepared as Prepared
from ._types import Quality as Quality
from ._types import Refused as Refused
from ._types import Scan as Scan
from ._types import Source as Source

__all__ = [
    "LAYOUTS",
    "Companion",
    "Found",
    "Layout",
    "Outcome",
    "Plan",
    "Prepared",
    "Quality",
    "Record",
    "Refused",
    "RunProgress",
    "Scan",
    "Settings",
    "Source",
    "Splitting",
    "back_to_scan",
    "find_sources",
    "needs_a_look",
    "plan_run",
    "prepare_folder",
    "prepare_scan",
    "report_row",
    "split_folder",
    "to_source_of",
]
