#!/bin/sh
# Make the secrets of compose.yaml that are not there: random, readable by their owner alone.
#
#   docker/make_secrets.sh [FOLDER]       by default docker/secrets, which git ignores
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
for name in admin_password database_password session_key writer_password; do
    if [ -s "$folder/$name" ]; then
        echo "kept  $folder/$name"
    else
        od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
        echo "made  $folder/$name"
    fi
done
