#!/bin/sh
# All figures of the editors of weights (docs/design/editors.md), most important first: benchmarks/editors.sh DATA OUT
# DATA is the folder with counterfact.json and piqa_valid.jsonl. Each line may be killed and run again; what was found is
# kept in OUT/kept and shared by the methods. About 40 CPU minutes, more than half of them for 500 edits in sequence.
set -eu
data=$1 out=$2
mkdir -p "$out"
export OMP_NUM_THREADS=1
run() {
    name=$1
    shift
    [ -f "$out/$name.json" ] || python benchmarks/editors.py measure "$facts" "$out/$name.json" "$@"
}
facts=$out/known.json
[ -f "$facts" ] || python benchmarks/editors.py known "$data/counterfact.json" "$facts"

run memit-100 --method memit --edits 100 --batch 100
for method in memit alphaedit rome r-rome emmet pmet ft-m ft-l; do
    run "$method" --method "$method" --edits 37
done
facts=$data/counterfact.json
run alphaedit-500-sequential --method alphaedit --edits 500 --batch 50 --sequential --near 5 \
    --params '{"norm_anchor": true}' --piqa "$data/piqa_valid.jsonl"
facts=$out/known.json
for method in memit alphaedit emmet pmet rome ft-m ft-l; do
    run "$method-10" --method "$method" --edits 40 --batch 10
    [ "$method" = memit ] || run "$method-100" --method "$method" --edits 100 --batch 100
done
for method in rome r-rome memit alphaedit emmet pmet ft-m ft-l; do
    run "$method-10-sequential" --method "$method" --edits 10 --sequential
    run "$method-100-sequential" --method "$method" --edits 100 --sequential
done
facts=$data/counterfact.json
run memit-1000 --method memit --edits 1000 --batch 1000 --near 3
for method in rome memit; do
    python benchmarks/editors.py speed "$out/known.json" --method "$method" | tee "$out/speed-$method.json"
done
