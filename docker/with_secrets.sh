#!/bin/sh
# Run a command with secrets as environment variables: a file below /run/secrets whose name is that
# of a variable becomes this variable, unless it is set already.
#
#   docker/with_secrets.sh COMMAND...
set -eu
folder=${FAMSEG_SECRETS_FOLDER:-/run/secrets}
for file in "$folder"/[A-Z]*; do
    name=${file##*/}
    [ -f "$file" ] || continue
    eval "given=\${$name:-}"
    # shellcheck disable=SC2154  # set by eval
    [ -n "$given" ] || export "$name=$(cat "$file")"
done
unset given file name folder
exec "$@"
