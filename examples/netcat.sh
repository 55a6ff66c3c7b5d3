#!/usr/bin/env bash
# Generates load with netcat alone. Usage: examples/netcat.sh [HOST [PORT [SECONDS [LINES_PER_PACKET]]]]
# One nc process keeps one socket open and sends what it reads. It may read several writes at once, up to 16 KiB, so each
# write is padded to 1 KiB with blanks, which every reader trims: no line is ever cut in two.
set -euo pipefail
host=${1:-127.0.0.1} port=${2:-8125} seconds=${3:-5} per_packet=${4:-20}
[ "$per_packet" -le 30 ] || { echo "at most 30 lines fit into a packet"; exit 2; }
sent=0
exec 3> >(exec nc -u -q0 "$host" "$port")
ends=$((SECONDS + seconds))
while [ $SECONDS -lt $ends ]; do
  for ((packet = 0; packet < 100; packet++)); do
    lines=
    for ((line = 0; line < per_packet; line++)); do
      printf -v one 'netcat.requests.endpoint_%03d:1|c\n' $(((packet * per_packet + line) % 1000))
      lines+=$one
    done
    printf '%-1023s\n' "${lines%$'\n'}" >&3
    sent=$((sent + per_packet))
  done
done
exec 3>&-
echo "$sent lines in $seconds s; compare with the ledger: curl -s http://$host:8127/api/v1/status"
echo "the status is that of the last tick: wait one interval before comparing"
