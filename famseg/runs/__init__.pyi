from ._folder import RunFolder as RunFolder
from ._folder import claim_new_run as claim_new_run
from ._folder import claim_run as claim_run
from ._folder import open_run_folder as open_run_folder
from ._folder import remove_empty_runs as remove_empty_runs
from ._folder import run_folders as run_folders
from ._lease import BusyError as BusyError
from ._lease import Lease as Lease
from ._lease import LostLeaseError as LostLeaseError
from ._lease import lease as lease
from ._lease import owner_of as owner_of
from ._lease import was_killed as was_killed
from ._leftovers import remove_leftovers as remove_leftovers
from ._owner import Owner as Owner
from ._record import complete_record as complete_record
from ._status import read_status as read_status
from ._status import status_kept as status_kept

__all__ = [
    "BusyError",
    "Lease",
    "LostLeaseError",
    "Owner",
    "RunFolder",
    "claim_new_run",
    "claim_run",
    "complete_record",
    "lease",
    "open_run_folder",
    "owner_of",
    "read_status",
    "remove_empty_runs",
    "remove_leftovers",
    "run_folders",
    "status_kept",
    "was_killed",
]
