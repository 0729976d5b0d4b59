from ._geometry import Plan as Plan
from ._header import read_header as read_header
from ._series import find_series as find_series
