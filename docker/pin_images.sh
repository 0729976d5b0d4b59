#!/bin/sh
# Pin the images of others, the base and those of the compose files, to what their tags mean today.
#
#   docker/pin_images.sh          needs docker with buildx and the network; a step of every release
set -eu
folder=$(dirname "$0")
for file in "$folder/Dockerfile" "$folder/compose.yaml" "$folder/tls.yaml"; do
    sed -n 's/^\(ARG BASE_IMAGE=\|    image: \)\([^@ ]*\)@sha256:.*/\2/p' "$file" | while read -r tag; do
        digest=$(docker buildx imagetools inspect "$tag" --format '{{.Manifest.Digest}}' </dev/null)
        if ! expr "$digest" : 'sha256:[0-9a-f]\{64\}$' >/dev/null; then
            echo "$tag has no digest that can be read: $digest" >&2
            exit 1
        fi
        sed -i "s|\([= ]\)$tag@sha256:.*|\1$tag@$digest|" "$file"
        echo "$tag@$digest"
    done
done
