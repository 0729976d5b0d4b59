#!/bin/sh
# Pin the base of the image to what its tag means today.
#
#   docker/pin_base.sh            needs docker with buildx and the network
set -eu
file=$(dirname "$0")/Dockerfile
tag=$(sed -n 's/^ARG BASE_IMAGE=\(.*\)@sha256:.*/\1/p' "$file")
digest=$(docker buildx imagetools inspect "$tag" --format '{{.Manifest.Digest}}')
if ! expr "$digest" : 'sha256:[0-9a-f]\{64\}$' >/dev/null; then
    echo "$tag has no digest that can be read: $digest" >&2
    exit 1
fi
sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$tag@$digest|" "$file"
echo "$tag@$digest"
