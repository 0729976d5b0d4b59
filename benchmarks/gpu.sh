#!/usr/bin/env bash
# What famseg does on an NVIDIA GPU: tests, NCCL, a training and the cost tables, in under 8 minutes.
#
#   benchmarks/gpu.sh [--out FOLDER] [--device cuda|cpu] [--seconds N] [--only PART,PART]
#
# Writes gpu.json (versions, GPU, every part with its state, seconds and findings), gpu.log, and the
# tables of both benchmarks as Markdown and JSON to FOLDER, build/gpu by default. Each part has a
# limit, and none begins after N seconds, 450 by default. PYTHON names the interpreter: by default
# that of .venv, else python3. A part whose packages are not installed is not run, and says so.
#
# --device cpu rehearses every part without a GPU: gloo in place of NCCL, and quick tables. --only
# runs some of them: tests, one_rank, all_ranks, training_run, training_table, flatness_table_quick,
# flatness_table.
#
# Exit status: 0 all is well, 1 a part failed, ran out of time or could not run, 2 there is no GPU,
# or faulty arguments.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
out=$root/build/gpu device=cuda seconds=450 only=

refuse() {
    echo "gpu.sh: $1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --out | --device | --seconds | --only)
            [ $# -gt 1 ] || refuse "$1 needs a value"
            case $1 in
                --out) out=$2 ;;
                --device) device=$2 ;;
                --seconds) seconds=$2 ;;
                --only) only=,$2, ;;
            esac
            shift 2
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) refuse "unknown argument $1; --help lists those that there are" ;;
    esac
done
case $device in cuda | cpu) ;; *) refuse "--device must be cuda or cpu, got $device" ;; esac
[[ $seconds =~ ^[0-9]+$ ]] || refuse "--seconds must be a whole number, got $seconds"
[[ $only =~ ^(,(tests|one_rank|all_ranks|training_(run|table)|flatness_table(_quick)?))*,?$ ]] ||
    refuse "--only names a part that there is not; --help lists them"

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ ! -x "$root/.venv/bin/python" ] || python=$root/.venv/bin/python
fi
case $python in
    */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; # parts run elsewhere
esac
report() { "$python" "$here/_gpu_report.py" "$@"; }

# One process a GPU; two where there is none.
processes=$(report processes "$device") || exit 2

mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# A checkout that is not installed has no entry points, by which pipelines are found.
report metadata "$work/installed" && export PYTHONPATH=$work/installed:$PYTHONPATH
export PYTHONUNBUFFERED=1 FAMSEG_TEST_DEVICE=$device FAMSEG_CACHE=$work/cache OMP_NUM_THREADS=1
: >"$out/gpu.log"
: >"$work/parts.tsv"
all_is_well=true

# part NAME LIMIT_S "PACKAGE ..." COMMAND...: run a part, keep its log, note its state.
part() {
    local name=$1 limit=$2 needs=$3 log=$work/$1.log state status=0 missing left began
    shift 3
    [[ -z $only || $only == *,$name,* ]] || return 0
    [ "$device" = cuda ] || limit=$((limit * 4)) # a processor is slow, and may be busy
    left=$((seconds - SECONDS))
    [ "$limit" -le "$left" ] || limit=$left
    began=$EPOCHREALTIME
    # shellcheck disable=SC2086  # names of packages, one word each
    missing=$(report missing $needs)
    if [ -n "$missing" ]; then
        state="not run: not installed: $missing"
    elif [ "$limit" -lt 10 ]; then
        state="not run: no time left"
    else
        echo "gpu.sh: $name, at most $limit s" >&2
        (cd "$work" && timeout --kill-after=5 "$limit" "$@") >"$log" 2>&1 </dev/null
        status=$?
        case $status in
            0) state=passed ;;
            124 | 137) state="out of time" ;;
            *) state=failed ;;
        esac
        { printf '==== %s: %s\n$ %s\n' "$name" "$state" "$*" && cat "$log"; } >>"$out/gpu.log"
    fi
    [ "$state" = passed ] || all_is_well=false
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' \
        "$name" "$state" "$status" "$began" "$EPOCHREALTIME" "$limit" "$*" >>"$work/parts.tsv"
    echo "gpu.sh: $name: $state" >&2
}

ranks() {
    "$python" -m torch.distributed.run --nproc-per-node "$1" --master-addr 127.0.0.1 \
        --master-port "$(report port)" "${@:2}"
}
export -f ranks report
export python here

if [ "$device" = cuda ]; then
    tests=("$root/tests" --continue-on-collection-errors)
else
    tests=("$root/tests/cuda") # the others name the device themselves
fi
part tests 150 "pytest pytest_timeout" "$python" -m pytest "${tests[@]}" -m cuda \
    --rootdir "$root" -c "$root/pyproject.toml" -p no:cacheprovider --tb short -ra \
    --junitxml "$work/tests.xml"
part one_rank 45 "" bash -c "ranks 1 '$here/_gpu_ranks.py' $device"
part all_ranks 60 "" bash -c "ranks $processes '$here/_gpu_ranks.py' $device"
whole="monai ignite pydantic mlflow nibabel"
part training_run 90 "$whole" bash -c "ranks $processes -m famseg train --config smoke/skull \
    training.batch_size=$((processes > 4 ? processes : 4)) training.device=$device \
    output=$work/runs tracking.uri=sqlite:///$work/mlflow.db --json"
quick=(--quick)
[ "$device" = cpu ] || quick=(--rounds 3)
part training_table 100 "$whole" "$python" "$here/training.py" --device "$device" "${quick[@]}" \
    --out "$out/training.md"
part flatness_table_quick 90 "monai pydantic" "$python" "$here/flatness.py" --device "$device" \
    --quick --out "$out/flatness_quick.md"
if [ "$device" = cuda ]; then
    part flatness_table 300 "monai pydantic" "$python" "$here/flatness.py" --device cuda \
        --rounds 2 --out "$out/flatness.md"
fi

report write "$out" "$work" "$device" "$SECONDS" || all_is_well=false
[ "$all_is_well" = true ]
