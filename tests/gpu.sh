#!/usr/bin/env bash
# Everything that `moec` can run on an NVIDIA GPU of this machine, compared with the reference bit for bit.
#   tests/gpu.sh [MOEC]      default: target/release/moec
# Each line names what ran; the exit status is 1 if any of it differs or fails.
set -uo pipefail
cd "$(dirname "$0")/.."
moec=${1:-target/release/moec}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

say() { printf '%-9s %s\n' "$1" "$2"; }

run() { # WHAT ARGUMENTS...: a whole layer, every call, every result
    local what=$1; shift
    if timeout 120 "$moec" run "$@" --device cuda --format json >"$work/report" 2>"$work/error"; then
        say equal "$what"
    else
        say FAILED "$what"; head -c 2000 "$work/error"; grep -A4 '"difference": {' "$work/report"; failed=1
    fi
}

gate() { # VECTOR: the gate alone, forward and backward
    local vector=$1
    "$moec" gate "$vector.moe" --input "$vector.safetensors" --output "$work/reference" --on reference 2>"$work/error" &&
        "$moec" gate "$vector.moe" --input "$vector.safetensors" --output "$work/cuda" --on cuda 2>"$work/error" &&
        cmp "$work/reference" "$work/cuda" >>"$work/error" 2>&1
    if [ $? = 0 ]; then say equal "gate $(basename "$vector")"; else say FAILED "gate $(basename "$vector")"; head -c 1000 "$work/error"; failed=1; fi
}

for vector in tests/data/gates/*.moe; do gate "${vector%.moe}"; done
# As many ranks as the CTAs of all that wait leave room for: each waits with one for each of its experts.
for example in dsl-examples/*.moe; do
    ranks=4
    [ "$(basename "$example")" = longcat_flash.moe ] && ranks=2
    run "$(basename "$example" .moe), $ranks ranks, 32 tokens a rank, 3 times" "$example" --deploy one_node --gpus-per-node $ranks \
        --tokens 32 --repeat 3
done
export CUDA_DEVICE_MAX_CONNECTIONS=16
for ranks in 1 2 3 5 8 16; do
    run "deepseek_v3, $ranks ranks, 16 tokens a rank, 10 times" dsl-examples/deepseek_v3.moe --deploy one_node \
        --gpus-per-node "$ranks" --tokens 16 --repeat 10
done
run "deepseek_v3, 8 ranks, 128 tokens a rank, 5 times" dsl-examples/deepseek_v3.moe --deploy one_node --repeat 5
sed 's/tokens 128 per gpu/tokens 1024 per gpu/' dsl-examples/deepseek_v3.moe >"$work/large.moe"
run "deepseek_v3, 2 ranks, 1024 tokens a rank, twice" "$work/large.moe" --deploy one_node --gpus-per-node 2 --repeat 2
exit $failed
