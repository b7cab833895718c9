#!/usr/bin/env bash
# A collection from its files to tables: BM25 and RM3, the hard prompt, each method trained and reranking, alone and interpolated
# with BM25 (weights tuned on dev). The README's tables come from this script.
#
#   pipelines/study.sh NAME DATA OUTPUT [MODEL]
#
# NAME: of the collection, such as squad; DATA: its folder with corpus/docs.jsonl, topics.SPLIT.tsv and qrels.SPLIT.txt for train,
# dev and test (without dev, a twelfth of train is dev: split_dev.py); OUTPUT: where everything goes; MODEL: the base model
# (default: demo, the packaged one). In the environment: METHODS (none: METHODS=) and SEEDS to train, TRAIN and RERANK flags, and EVERY=5 to take
# every fifth test topic only. A killed run goes on where it was when the same command is given again.
set -euo pipefail
name=$1 data=$2 output=$3 model=${4:-demo}
methods=${METHODS-"soft-prompt qpeft-r qpeft-a"}
seeds=${SEEDS:-0}
read -ra train <<<"${TRAIN:-}"
read -ra rerank <<<"${RERANK:-}"
measures=(-m nDCG@10 -m RR@10 -m Success@1 -m Success@5 -m R@10 -m R@50 -m R@100)
mkdir -p "$output"

if [ ! -f "$data/topics.dev.tsv" ]; then
  [ -f "$output/split/topics.dev.tsv" ] || python "$(dirname "$0")/split_dev.py" "$data" "$output/split"
  splits=$output/split
else
  splits=$data
fi
sample() { # SPLIT EVERY NAME: every so many topics of a split, and their qrels
  awk -v n="$2" '(NR - 1) % n == 0' "$splits/topics.$1.tsv" >"$output/topics.$3.tsv"
  awk 'NR == FNR { asked[$1]; next } $1 in asked' "$output/topics.$3.tsv" "$splits/qrels.$1.txt" >"$output/qrels.$3.txt"
}
sample train 1 train
sample dev 1 dev
sample dev $((($(wc -l <"$splits/topics.dev.tsv") + 127) / 128)) tune # for the hard prompt's weight
sample test "${EVERY:-1}" test
{
  echo "name = \"$name\""
  echo 'index = "index"'
  echo "corpus = \"$(realpath "$data")/corpus/docs.jsonl\""
  for table in topics:tsv qrels:txt; do
    echo "[${table%:*}]"
    for split in train dev tune test; do echo "$split = \"${table%:*}.$split.${table#*:}\""; done
  done
} >"$output/$name.toml"
collection=(-c "$output/$name.toml")
run() { echo "$output/run.$name.$1.txt"; }

# What each method is trained with.
settings() {
  case $1 in
  qpeft-a-soft) echo "--method qpeft-a --soft-prompt" ;;
  lora) echo "--method hard-prompt --lora-rank 16" ;;
  qpeft-a-lora) echo "--method qpeft-a --lora $output/adapter.lora/lora" ;; # after lora
  *) echo "--method $1" ;;
  esac
}
# SYSTEM DEV_RUN SPLIT: the weight of a system beside BM25, tuned on a split, then the interpolated test run.
interpolate() {
  local weights=$output/weights.$1.json
  [ -f "$weights" ] ||
    qpeft fuse "$(run "bm25.$3")" "$2" --method interpolation --normalize z-score "${collection[@]}" --split "$3" --tune \
      --hits 100 --save "$weights" --output "$output/fused.txt" 2>/dev/null
  [ -f "$(run "bm25+$1.test")" ] ||
    qpeft fuse "$(run bm25.test)" "$(run "$1.test")" --weights "$weights" --hits 100 --output "$(run "bm25+$1.test")"
  systems+=("$1")
}

[ -d "$output/index" ] || qpeft index --corpus "$data/corpus/docs.jsonl" --output "$output/index"
for split in train dev tune test; do
  [ -f "$(run bm25.$split)" ] || qpeft bm25 "${collection[@]}" --split $split --output "$(run bm25.$split)"
done
[ -f "$(run rm3.test)" ] || qpeft bm25 "${collection[@]}" --split test --rm3 --output "$(run rm3.test)"

systems=()
for split in tune test; do
  [ -f "$(run hard-prompt.$split)" ] ||
    qpeft rerank "$(run bm25.$split)" "${collection[@]}" --split $split --model "$model" --method hard-prompt --weight 1 \
      "${rerank[@]}" --output "$(run hard-prompt.$split)" --resume
done
interpolate hard-prompt "$(run hard-prompt.tune)" tune
for method in $methods; do
  for seed in $seeds; do
    system=$method
    [ "$seed" = 0 ] || system=$method.seed$seed
    read -ra how <<<"$(settings "$method")"
    adapter=$output/adapter.$system
    [ -f "$adapter/training.json" ] ||
      qpeft train "$(run bm25.train)" "${collection[@]}" --dev-run "$(run bm25.dev)" --model "$model" "${how[@]}" --seed "$seed" \
        "${train[@]}" --output "$adapter" --resume
    [ -f "$(run "$system.test")" ] ||
      qpeft rerank "$(run bm25.test)" "${collection[@]}" --split test --adapter "$adapter" --weight 1 "${rerank[@]}" \
        --output "$(run "$system.test")" --resume
    interpolate "$system" "$adapter/run.dev.txt" dev
  done
done

# Two tables: against BM25, and against the hard prompt.
{
  tests=("$(run bm25.test)" "$(run rm3.test)")
  for system in "${systems[@]}"; do tests+=("$(run "bm25+$system.test")"); done
  qpeft evaluate "${collection[@]}" --split test "${measures[@]}" "${tests[@]}"
  echo
  tests=()
  for system in "${systems[@]}"; do tests+=("$(run "$system.test")"); done
  qpeft evaluate "${collection[@]}" --split test "${measures[@]}" "${tests[@]}"
} | tee "$output/evaluation.test.txt"
