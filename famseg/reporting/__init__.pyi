from ._compare import Comparison as Comparison
from ._compare import Figures as Figures
from ._compare import compare_runs as compare_runs
from ._comparison_page import check_comparable as check_comparable
from ._comparison_page import comparison_page as comparison_page
from ._groups import Group as Group
from ._groups import Study as Study
from ._groups import studies as studies
from ._html import Image as Image
from ._html import Page as Page
from ._html import Sortable as Sortable
from ._html import render as render
from ._pairs import Pairing as Pairing
from ._reconstruction_page import is_reconstruction as is_reconstruction
from ._reconstruction_page import (
    write_reconstruction_pages as write_reconstruction_pages,
)
from ._records import as_dict as as_dict
from ._records import rows as rows
from ._run_page import report_name as report_name
from ._run_page import run_page as run_page
from ._runs import Found as Found
from ._runs import Run as Run
from ._runs import find_runs as find_runs
from ._scene import Layer as Layer
from ._scene import Part as Part
from ._scene import Scene as Scene
from ._tables import Table as Table
from ._tables import folded as folded
from ._tables import markdown as markdown
from ._tables import plain as plain
from ._tables import summary_tables as summary_tables
from ._tables import tables as tables
from ._verdict import POSSIBLE as POSSIBLE
from ._verdict import verdict_lines as verdict_lines
