#!/usr/bin/env bash
# Two first stages fused, then reranked: BM25 and dense retrieval, weights tuned on the split dev, the test split evaluated.
#
#   pipelines/hybrid.sh COLLECTION.toml OUTPUT --adapter my-adapter       (or: --model MODEL for the hard prompt)
#
# COLLECTION.toml names index (Lucene), corpus, topics and qrels of dev and test; pipelines/study.sh writes one. ENCODER in the
# environment: flags of the dense encoder, e.g. ENCODER="--adapter repllama" (default: --model demo, which was not trained for
# retrieval). A killed run goes on where it was when the same command is given again.
set -euo pipefail
collection=$1 output=$2
shift 2
read -ra encoder <<<"${ENCODER:---model demo}"
mkdir -p "$output"
run() { echo "$output/run.$1.txt"; }

[ -d "$output/dense" ] || {
  qpeft encode -c "$collection" "${encoder[@]}" --output "$output/vectors" --resume
  qpeft dense-index "$output/vectors" --output "$output/dense"
}
for split in dev test; do
  [ -f "$(run bm25.$split)" ] || qpeft bm25 -c "$collection" --split $split --output "$(run bm25.$split)"
  [ -f "$(run dense.$split)" ] ||
    qpeft dense -c "$collection" --split $split --index "$output/dense" --output "$(run dense.$split)"
done
[ -f "$output/weights.json" ] ||
  qpeft fuse "$(run bm25.dev)" "$(run dense.dev)" --method interpolation -c "$collection" --tune --save "$output/weights.json" \
    --output "$(run hybrid.dev)"
qpeft fuse "$(run bm25.test)" "$(run dense.test)" --weights "$output/weights.json" --output "$(run hybrid.test)"
qpeft rerank "$(run hybrid.test)" -c "$collection" --split test "$@" --output "$(run reranked.test)" --resume

qpeft evaluate -c "$collection" --split test -m nDCG@10 -m RR@10 -m R@100 \
  "$(run bm25.test)" "$(run dense.test)" "$(run hybrid.test)" "$(run reranked.test)" | tee "$output/evaluation.test.txt"
