#!/usr/bin/env bash
# A Ray cluster by hand: one machine is its head, the others join. Who reaches its ports and has the
# token ~/.ray/auth_token can run any code: copy it from the head to the other machines only.
#
#   deploy/ray.sh head                  # on the first machine; prints the address to join
#   deploy/ray.sh join HEAD:6379        # on every other machine
#   RAY_ADDRESS=HEAD:6379 stallscan run PLAN --engine ray    # on any of them
#   deploy/ray.sh stop                  # on every machine
set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
case ${1:-} in
  head) token=$(ray get-auth-token --generate) && exec ray start --head --port 6379 --include-dashboard=false --disable-usage-stats ;;
  join) exec ray start --address "$2" ;;
  stop) exec ray stop ;;
  *) echo 'usage: ray.sh head | join HEAD:6379 | stop' >&2; exit 2 ;;
esac
