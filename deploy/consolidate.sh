#!/bin/sh
# One round of consolidation, for a timer: plan, run behind the gate, promote, look after the shadows.
#   consolidate.sh [options of 'corrigenda consolidate plan']
# Settings: CORRIGENDA_MEMORY, CORRIGENDA_EDITIONS, CORRIGENDA_MODEL, PUBLISH_AS (lora), PLANS (a folder), SERVERS (URLs).
# A round that was killed is gone on with by the next one; two rounds on one model keep out of each other's way.
set -eu
plans="${PLANS:-plans}"
mkdir -p "$plans"
servers=""
for url in ${SERVERS:-}; do servers="$servers --server $url"; done
result=0
# A plan that is not finished comes before a new one.
plan="$(find "$plans" -name '*.json' | sort | head -n 1)"
if [ -z "$plan" ]; then
  plan="$plans/$(date -u +%Y%m%dT%H%M%SZ).json"
  corrigenda consolidate plan --if-any --out "$plan" "$@"
fi
if [ -e "$plan" ]; then
  # shellcheck disable=SC2086 (one word each)
  corrigenda consolidate run "$plan" --promote "${PUBLISH_AS:-lora}" $servers || result=$?
  # 0 promoted, 1 the gate let nothing through, 2 refused: each is an end. Killed, crashed (70), or stopped by a disk, a
  # lock or a server (75) is not: the plan stays.
  [ "$result" -le 2 ] && mv "$plan" "$plan.done"
  # What the gate refused is no failure: who restarts what failed would plan the same edits again at once.
  [ "$result" -eq 1 ] && result=0
fi
corrigenda consolidate probation --check --retire
exit "$result"
