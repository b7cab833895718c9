#!/usr/bin/env bash
# The chain on a collection with train, dev and test splits: index, BM25, hard prompt, training and reranking of each method,
# evaluation. The README's table on SQuAD comes from this script.
#
#   pipelines/squad.sh DATA OUTPUT [MODEL]
#
# DATA: a folder with corpus/docs.jsonl, topics.SPLIT.tsv and qrels.SPLIT.txt; OUTPUT: where everything goes; MODEL: a base
# model (default: demo, the packaged one). METHODS, TRAIN and RERANK in the environment change what is run and how; EVERY=5
# takes every fifth test topic only. A killed run goes on where it was when the same command is given again.
set -euo pipefail
data=$1 output=$2 model=${3:-demo}
methods=${METHODS:-"soft-prompt qpeft-r qpeft-a"}
read -ra train <<<"${TRAIN:-}"
read -ra rerank <<<"${RERANK:-}"
mkdir -p "$output"

for split in train dev test; do
  every=1
  [ $split = test ] && every=${EVERY:-1}
  awk -v n="$every" '(NR - 1) % n == 0' "$data/topics.$split.tsv" >"$output/topics.$split.tsv"
  awk 'NR == FNR { asked[$1]; next } $1 in asked' "$output/topics.$split.tsv" "$data/qrels.$split.txt" >"$output/qrels.$split.txt"
done
cat >"$output/squad.toml" <<TOML
name = "squad"
index = "index"
corpus = "$(realpath "$data")/corpus/docs.jsonl"
[topics]
$(for split in train dev test; do echo "$split = \"topics.$split.tsv\""; done)
[qrels]
$(for split in train dev test; do echo "$split = \"qrels.$split.txt\""; done)
TOML
collection=(-c "$output/squad.toml")
run() { echo "$output/run.squad.$1.txt"; }

[ -d "$output/index" ] || qpeft index --corpus "$data/corpus/docs.jsonl" --output "$output/index"
for split in train dev test; do
  [ -f "$(run bm25.$split)" ] || qpeft bm25 "${collection[@]}" --split $split --output "$(run bm25.$split)"
done

[ -f "$(run hard-prompt.test)" ] ||
  qpeft rerank "$(run bm25.test)" "${collection[@]}" --split test --model "$model" --method hard-prompt "${rerank[@]}" \
    --output "$(run hard-prompt.test)" --resume
for method in $methods; do
  [ -f "$output/adapter.$method/training.json" ] ||
    qpeft train "$(run bm25.train)" "${collection[@]}" --dev-run "$(run bm25.dev)" --model "$model" --method "$method" \
      "${train[@]}" --output "$output/adapter.$method" --resume
  [ -f "$(run "$method.test")" ] ||
    qpeft rerank "$(run bm25.test)" "${collection[@]}" --split test --adapter "$output/adapter.$method" "${rerank[@]}" \
      --output "$(run "$method.test")" --resume
done

tests=("$(run bm25.test)" "$(run hard-prompt.test)")
for method in $methods; do tests+=("$(run "$method.test")"); done
qpeft evaluate "${collection[@]}" --split test -m nDCG@10 -m RR@10 -m Success@1 -m Success@5 -m R@50 -m R@100 "${tests[@]}" |
  tee "$output/evaluation.test.txt"
