#!/bin/sh
# Remove from an environment what only building and testing its packages needs.
#
#   docker/trim.sh /opt/famseg
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
"$1/bin/python" -m pip --quiet uninstall --yes pip
# C++ headers and CMake files: there is no compiler to use them.
rm -rf "$site/torch/include" "$site/torch/share/cmake" "$site/pyarrow/include"
# Torch's test programs; its shared memory manager lies between them and is needed.
rm -rf "$site/torch/test"
find "$site/torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
# Packages' own tests, by name: some packages import theirs.
for package in matplotlib mpmath networkx nibabel numpy pandas pyarrow scipy sklearn sympy; do
    find "$site/$package" -type d -name tests -prune -exec rm -rf {} +
done
