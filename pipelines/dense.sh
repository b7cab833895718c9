#!/usr/bin/env bash
# Dense retrieval on a collection: RepLLaMA trained from a model as it is, and from the same model adapted by LLaRA; both
# search the test split, and the runs are reranked.
#
#   pipelines/dense.sh COLLECTION.toml OUTPUT [MODEL]
#
# COLLECTION.toml names index (Lucene, for the hard negatives), corpus, topics and qrels of train, dev and test;
# pipelines/study.sh writes one. MODEL: a causal language model (default: demo, the packaged one). In the environment: TEXT, plain
# text files that LLaRA reads (default: the collection's corpus, without topics and qrels), flags ADAPT, TRAIN and INDEX of
# the verbs, RERANK, flags of the reranker (default: the hard prompt of MODEL), and SYSTEMS, which of the two. Only train topics
# are learned from, and the epoch is chosen on dev. A killed run goes on where it was when the same command is given again.
set -euo pipefail
collection=$1 output=$2 model=${3:-demo}
systems=${SYSTEMS:-"repllama llara-repllama"}
read -ra text <<<"${TEXT:-}"
read -ra adapt <<<"${ADAPT:-}"
read -ra train <<<"${TRAIN:---train-topics 0 --batch-size 32 --negatives 4 --select RR@10}"
read -ra index <<<"${INDEX:-}"
read -ra rerank <<<"${RERANK:---model $model}"
mkdir -p "$output"
run() { echo "$output/run.$1.txt"; }

for split in train dev test; do
  [ -f "$(run bm25.$split)" ] || qpeft bm25 -c "$collection" --split $split --output "$(run bm25.$split)"
done
[ "$systems" = repllama ] || [ -f "$output/llara/training.json" ] ||
  qpeft adapt "${text[@]}" -c "$collection" --model "$model" "${adapt[@]}" --output "$output/llara" --resume

runs=("$(run bm25.test)")
for system in $systems; do
  from=$model
  [ $system = repllama ] || from=$output/llara
  encoder=$output/$system
  [ -f "$encoder/training.json" ] ||
    qpeft train "$(run bm25.train)" -c "$collection" --dev-run "$(run bm25.dev)" --method repllama --model "$from" \
      "${train[@]}" --output "$encoder" --resume
  [ -d "$output/index.$system" ] || {
    qpeft encode -c "$collection" --adapter "$encoder" --output "$output/vectors.$system" --resume
    qpeft dense-index "$output/vectors.$system" "${index[@]}" --output "$output/index.$system"
  }
  for split in dev test; do
    [ -f "$(run $system.$split)" ] ||
      qpeft dense -c "$collection" --split $split --index "$output/index.$system" --output "$(run $system.$split)"
  done
  [ -f "$(run $system.reranked.test)" ] ||
    qpeft rerank "$(run $system.test)" -c "$collection" --split test "${rerank[@]}" --output "$(run $system.reranked.test)" \
      --resume
  runs+=("$(run $system.test)" "$(run $system.reranked.test)")
done

qpeft evaluate -c "$collection" --split test -m nDCG@10 -m RR@10 -m Success@1 -m Success@5 -m R@10 -m R@100 "${runs[@]}" |
  tee "$output/evaluation.test.txt"
