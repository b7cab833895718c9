#!/usr/bin/env bash
# A collection from its files to tables: BM25 and RM3, the hard prompt, each method trained and reranking, alone and interpolated
# with BM25 (weights tuned on dev); dense retrieval, alone, fused with BM25, and reranked. The README's tables come from this script.
#
#   pipelines/study.sh NAME DATA OUTPUT [MODEL]
#
# NAME: of the collection, such as squad; DATA: its folder with corpus/docs.jsonl, topics.SPLIT.tsv and qrels.SPLIT.txt for train,
# dev and test (without dev, a twelfth of train is dev: split_dev.py); OUTPUT: where everything goes; MODEL: the base model
# (default: demo, the packaged one). A killed run goes on where it was when the same command is given again; what is done is
# not done again, so that methods can be added to an OUTPUT one by one. In the environment:
#
#   METHODS     rerankers to train (none: METHODS=), such as qpeft-a rankllama
#   ENCODERS    encoders of a dense first stage to train (none by default): repllama, and llara-repllama, from a model that LLaRA
#               adapted before; or folders of encoders
#   RERANKERS   what reranks the dense first stages (none by default): names out of METHODS, or folders of adapters
#   FIRST       which of them: hybrid (BM25 and dense, fused; the default), dense, or "dense hybrid"
#   SEEDS       of the trainings (default: 0), such as "0 1 2": tables have their means; EVERY=5 takes every fifth test topic only
#   RATES       learning rates, such as "0.001 0.01": each is tried for each method with seed 0, and the one with the least loss
#               on dev is taken for all its seeds (learning_rates.py shows what they gave); a single one is taken as it is.
#               RATES_lora ...: of one method, instead
#   TEXT        plain text files that LLaRA reads (default: the collection's corpus, without topics and qrels)
#   TRAIN, RERANK, ADAPT, ENCODE, INDEX     flags of the verbs; TRAIN_rankllama, RERANK_qpeft_a ...: of one method, instead
set -euo pipefail
name=$1 data=$2 output=$3 model=${4:-demo} here=$(dirname "$0")
methods=${METHODS-"soft-prompt qpeft-r qpeft-a"} encoders=${ENCODERS:-} rerankers=${RERANKERS:-} first=${FIRST:-hybrid}
seeds=${SEEDS:-0}
read -ra text <<<"${TEXT:-}"
measures=(-m nDCG@10 -m RR@10 -m "success.1,5,10,20,100 recall.5,10,20,50,100")
mkdir -p "$output"

if [ ! -f "$data/topics.dev.tsv" ]; then
  [ -f "$output/split/topics.dev.tsv" ] || python "$here/split_dev.py" "$data" "$output/split"
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
sample dev $((($(wc -l <"$splits/topics.dev.tsv") + 127) / 128)) tune # for weights of what is not run on all of dev
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
beside=(--method interpolation --normalize z-score)
run() { echo "$output/run.$name.$1.txt"; }

# VERB METHOD: sets ``given``, the flags that the environment has for it.
flags() {
  local own=$1_${2//[^[:alnum:]]/_}
  own=${own%_seed*}
  read -ra given <<<"${!own-${!1-}}"
}
# METHOD SUFFIX: what a method is trained with; SUFFIX: of a seed's adapters.
settings() {
  case $1 in
  qpeft-a-soft) echo "--model $model --method qpeft-a --soft-prompt" ;;
  lora) echo "--model $model --method hard-prompt --lora-rank 16" ;;
  qpeft-a-lora) echo "--model $model --method qpeft-a --lora $output/adapter.lora$2/lora" ;; # after lora
  llara-repllama) echo "--model $output/llara --method repllama" ;;
  *) echo "--model $model --method $1" ;;
  esac
}
# METHOD SEED: an adapter, or the folder of one; sets ``system``, its name, and ``adapter``, where it is.
train() {
  if [[ $1 == */* ]]; then
    adapter=$1 system=$(basename "$1")
    system=${system#adapter.}
    return
  fi
  local suffix=
  [ "$2" = 0 ] || suffix=.seed$2
  system=$1$suffix
  adapter=$output/adapter.$system
  local rates rate
  flags RATES "${1#llara-}" && rates=("${given[@]}") rate=${given[0]:-}
  flags TRAIN "${1#llara-}" # the same with LLaRA and without
  if [ ${#rates[@]} -gt 1 ]; then
    read -ra how <<<"$(settings "$1" "")"
    for rate in "${rates[@]}"; do fit "$output/rates/$1.$rate" --seed 0 --learning-rate "$rate"; done
    rate=$(python "$here/learning_rates.py" "$output" --best "$1" "${rates[@]}")
    [ -e "$output/adapter.$1" ] || ln -s "rates/$1.$rate" "$output/adapter.$1"
    [ "$(readlink "$output/adapter.$1")" = "rates/$1.$rate" ] ||
      { echo "study.sh: $output/adapter.$1 is there, with another rate than the best, $rate: take another OUTPUT" >&2 && exit 2; }
  fi
  [ -z "$rate" ] || given+=(--learning-rate "$rate")
  read -ra how <<<"$(settings "$1" "$suffix")"
  fit "$adapter" --seed "$2"
}
# ADAPTER FLAGS...: trained with these, ``how`` and ``given``, if it is not there.
fit() {
  [ -f "$1/training.json" ] ||
    qpeft train "$(run bm25.train)" "${collection[@]}" --dev-run "$(run bm25.dev)" "${how[@]}" "${given[@]}" "${@:2}" \
      --output "$1" --resume
}
# FIRST SYSTEM ADAPTER SPLIT: the run that a model alone makes of a first stage's, FIRST_SYSTEM (of BM25's: SYSTEM).
rerank() {
  local to=$1_$2
  to=$(run "${to#bm25_}.$4")
  flags RERANK "$2"
  [ -f "$to" ] ||
    qpeft rerank "$(run "$1.$4")" "${collection[@]}" --split "$4" --adapter "$3" --weight 1 "${given[@]}" --output "$to" --resume
}
# FIRST RUN SPLIT FILE: the weight of a run beside a first stage, tuned on a split.
tune() {
  [ -f "$4" ] ||
    qpeft fuse "$(run "$1.$3")" "$2" "${beside[@]}" "${collection[@]}" --split "$3" --tune --hits 100 --save "$4" \
      --output "$output/fused.txt" 2>"$4.log" || { local code=$? && cat "$4.log" >&2 && exit $code; }
}
# ADAPTER: sets ``chosen``, the flags for the weights of BM25 and the adapter, which its training chose on dev.
chosen() {
  chosen=("${beside[@]}" --weights)
  chosen+=("$(python -c 'import json, sys; w = json.load(open(sys.argv[1]))["weight"]; print(f"{1 - w:g},{w:g}")' "$1/adapter_config.json")")
}
# FIRST RUN TO SPLIT FLAGS...
fuse() {
  [ -f "$(run "$3.$4")" ] ||
    qpeft fuse "$(run "$1.$4")" "$(run "$2.$4")" "${@:5}" --hits 100 --output "$(run "$3.$4")"
}
# SYSTEM ...: a table of their test runs, each against the first.
compare() {
  local runs=() one
  for one; do runs+=("$(run "$one.test")"); done
  qpeft evaluate "${collection[@]}" --split test --average-seeds "${measures[@]}" "${runs[@]}"
}

[ -d "$output/index" ] || qpeft index --corpus "$data/corpus/docs.jsonl" --output "$output/index"
for split in train dev tune test; do
  [ -f "$(run bm25.$split)" ] || qpeft bm25 "${collection[@]}" --split $split --output "$(run bm25.$split)"
done
[ -f "$(run rm3.test)" ] || qpeft bm25 "${collection[@]}" --split test --rm3 --output "$(run rm3.test)"

systems=(hard-prompt)
flags RERANK hard-prompt
for split in dev test; do
  [ -f "$(run hard-prompt.$split)" ] ||
    qpeft rerank "$(run bm25.$split)" "${collection[@]}" --split $split --model "$model" --method hard-prompt --weight 1 \
      "${given[@]}" --output "$(run hard-prompt.$split)" --resume
done
tune bm25 "$(run hard-prompt.dev)" dev "$output/weights.hard-prompt.json" # on all of it: no training chooses it
fuse bm25 hard-prompt bm25+hard-prompt test --weights "$output/weights.hard-prompt.json"
for method in $methods; do
  for seed in $seeds; do
    train "$method" "$seed"
    rerank bm25 "$system" "$adapter" test
    chosen "$adapter"
    fuse bm25 "$system" "bm25+$system" test "${chosen[@]}"
    systems+=("$system")
  done
done

dense=() hybrids=() reranked=()
for encoder in $encoders; do
  if [ "$encoder" = llara-repllama ] && [ ! -f "$output/llara/training.json" ]; then
    flags ADAPT llara
    qpeft adapt "${text[@]}" "${collection[@]}" --model "$model" "${given[@]}" --output "$output/llara" --resume
  fi
  for seed in $([[ $encoder == */* ]] && echo 0 || echo "$seeds"); do
    train "$encoder" "$seed"
    vectors=$output/vectors.$system index=$output/index.$system
    flags ENCODE "$system"
    [ -f "$vectors/shards-0-of-1.json" ] || # there when all shards are
      qpeft encode "${collection[@]}" --adapter "$adapter" "${given[@]}" --output "$vectors" --resume
    flags INDEX "$system"
    [ -d "$index" ] || qpeft dense-index "$vectors" "${given[@]}" --output "$index"
    for split in dev tune test; do
      [ -f "$(run $system.$split)" ] ||
        qpeft dense "${collection[@]}" --split $split --index "$index" --output "$(run $system.$split)"
    done
    tune bm25 "$(run "$system.dev")" dev "$output/weights.$system.json"
    for split in tune test; do
      fuse bm25 "$system" "bm25+$system" $split --weights "$output/weights.$system.json"
    done
    dense+=("$system") hybrids+=("bm25+$system")
  done
done
stages=()
[[ $first != *dense* ]] || stages+=("${dense[@]}")
[[ $first != *hybrid* ]] || stages+=("${hybrids[@]}")
for stage in "${stages[@]}"; do
  for reranker in $rerankers; do
    train "$reranker" 0
    for split in tune test; do rerank "$stage" "$system" "$adapter" $split; done
    tune "$stage" "$(run "${stage}_$system.tune")" tune "$output/weights.$stage+$system.json"
    fuse "$stage" "${stage}_$system" "$stage+$system" test --weights "$output/weights.$stage+$system.json"
    reranked+=("$stage+$system")
  done
done

# Tables: all against BM25; models alone, then beside BM25, against the hard prompt; dense first stages, against BM25 and one
# another; reranked ones, each against its first stage.
{
  compare bm25 rm3 "${systems[@]}" "${systems[@]/#/bm25+}"
  echo
  compare "${systems[@]}"
  [ ${#systems[@]} = 1 ] || { echo && compare "${systems[@]/#/bm25+}"; }
  if [ ${#dense[@]} -gt 0 ]; then
    echo
    compare bm25 "${dense[@]}" "${hybrids[@]}" "${reranked[@]}"
    [ ${#dense[@]} = 1 ] || { echo && compare "${dense[@]}" && echo && compare "${hybrids[@]}"; }
    for stage in "${stages[@]}"; do
      with=()
      for one in "${reranked[@]}"; do [[ $one != "$stage"+* ]] || with+=("$one"); done
      [ ${#with[@]} = 0 ] || { echo && compare "$stage" "${with[@]}"; }
    done
  fi
} | tee "$output/evaluation.test.txt"
