"""The MLflow store of a sweep, which is created before its trials write to it."""

from __future__ import annotations

from pathlib import Path

import psutil

from famseg.tracking import prepare_store, resolve_uri, sqlite_path

# Their locks are local or missing, so SQLite must not be used there by several machines.
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.sshfs",
    "fuse.glusterfs",
    "glusterfs",
    "afs",
    "9p",
    "pvfs2",
    "orangefs",
    "weka",
    "wekafs",
    "vastnfs",
}


def ready_store(uri: str | None, *, several_machines: bool) -> bool:
    """Create the store before the trials start, if they may write to it simultaneously.

    Args:
        uri: ``tracking.uri`` of the trials.
        several_machines: Whether trials run on other machines.

    Returns:
        Whether trials write to the store themselves. They do not if it is a SQLite file on a
        network file system or for several machines; their records are then kept in their run
        folders and imported one at a time.

    Raises:
        InputError: If the store cannot be opened or does not answer.
    """
    address = resolve_uri(uri)
    path = sqlite_path(address)
    if path is not None and (several_machines or on_network(path)):
        return False
    prepare_store(address)
    return True


def on_network(path: Path) -> bool:
    """Return whether a file is, or would be, on a network file system."""
    folder = path.absolute()
    mounts = {each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)}
    for place in (folder, *folder.parents):
        if str(place) in mounts:
            return mounts[str(place)].lower() in _NETWORK
    return False
