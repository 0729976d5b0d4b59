from ._zip import unpack_files as unpack_files
