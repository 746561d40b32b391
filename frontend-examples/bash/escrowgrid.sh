#!/usr/bin/env bash
# Escrowgrid with curl alone: escrowgrid.sh held | open ASSET HOLDER CURRENCY AMOUNT | fund POSITION | follow
set -euo pipefail
REFUSED=22
address=${ESCROWGRID_ADDRESS:-http://127.0.0.1:8000/graphql}
: "${ESCROWGRID_KEY:?set it to an API key}"
# The key comes from a file descriptor: arguments can be seen by everybody on the machine.
ask() { curl -sS "$@" -H @<(printf 'Authorization: Bearer %s\n' "$ESCROWGRID_KEY"); }
# name=value pairs as the members of a JSON object; all values are text.
members() {
    local given='' pair value
    for pair in "$@"; do
        value=${pair#*=}
        value=${value//\\/\\\\}
        value=${value//'"'/'\"'}
        value=${value//$'\t'/\\t}
        value=${value//$'\n'/\\n}
        given+="${given:+,}\"${pair%%=*}\":\"$value\""
    done
    printf '%s' "$given"
}
# Prints an answer; what was refused is a failure to whoever called this.
tell() {
    local answer
    answer=$(cat)
    [[ -z $answer ]] || printf '%s\n' "$answer"
    [[ $answer != *'"errors":[{'* && $answer != *'"userErrors":[{'* ]]
}
# The document comes from standard input. A command has a name of its own: repeated after a lost answer, it acts once.
act() {
    ask "$address" --retry 5 --retry-all-errors -H 'Content-Type: application/json' \
        -H "Idempotency-Key: $(date +%s%N)-$$" \
        --data-binary "{\"query\":\"$(tr -s '\n ' ' ')\",\"variables\":{\"input\":{$(members "$@")}}}" | tell
}

# Such as a key or a cursor that is refused: asking again would not help.
stop_if_refused() {
    [[ $1 != *'"errors":[{'* ]] || { printf '%s\n' "$1" >&2 && exit "$REFUSED"; }
}

case ${1:-}/$# in
held/1)
    ask --get "$address" --data-urlencode "query@-" <<'GRAPHQL' | tell
query Held { positionSummary { currency count held released refunded } }
GRAPHQL
    ;;
open/5)
    act "assetId=$2" "holderReference=$3" "currency=$4" "amount=$5" <<'GRAPHQL'
mutation Open($input: CreatePositionInput!) {
  createPosition(input: $input) { position { id state amount } replayed userErrors { code message field } }
}
GRAPHQL
    ;;
fund/2)
    act "id=$2" <<'GRAPHQL'
mutation Fund($input: MovePositionInput!) {
  fundPosition(input: $input) { position { id state held } replayed userErrors { code message field } }
}
GRAPHQL
    ;;
follow/1)
    # Server-sent events: the id of each is its cursor, which Last-Event-ID goes on after.
    document=$(
        cat <<'GRAPHQL'
subscription Follow { ledgerEvents(heartbeatSeconds: 10) { node { id newState amountMoved currency } } }
GRAPHQL
    )
    place=escrowgrid.cursor
    while true; do
        ask --no-buffer --get "$address" --data-urlencode "query=$document" -H 'Accept: text/event-stream' \
            -H "Last-Event-ID: $(cat "$place" 2>/dev/null || true)" |
            {
                while IFS=': ' read -r name value; do
                    stop_if_refused "$name:$value"
                    case $name in
                    id) cursor=$value ;;
                    data)
                        printf '%s\n' "$value"
                        printf '%s' "${cursor:-}" >"$place"
                        ;;
                    esac
                done
                # A last line without an end is a refusal, or a message that was cut off: that one comes again.
                stop_if_refused "${name:-}:${value:-}"
            } || (($? != REFUSED)) || exit 1
        sleep 1
    done
    ;;
*)
    sed -n 's/^# Escrowgrid with curl alone: //p' "$0" >&2
    exit 2
    ;;
esac
