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
    if [ ! -r "$file" ]; then
        echo "$file: user $(id -u) cannot read it: set FAMSEG_USER to the owner of the secrets" >&2
        exit 2
    fi
    eval "given=\${$name:-}"
    # shellcheck disable=SC2154  # set by eval
    [ -n "$given" ] || export "$name=$(cat "$file")"
done
unset given file name folder
exec "$@"
