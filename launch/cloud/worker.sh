#!/usr/bin/env bash
# What is done on one host of a TPU slice; `podgcm launch tpu` calls it over ssh.
#
#   worker.sh install                       Python and the source in `new`, into a venv
#   worker.sh start TRIES LOGS COMMAND...   in the background, and again until it ends
#   worker.sh status                        one line: absent, running, lost, ended, stopped
#   worker.sh log [LINES]                   the end of what the command printed
#   worker.sh signal NAME                   such as USR1, to the command
#   worker.sh stop                          SIGTERM, and it is not run again
#
# How the command ends decides (train/exit_codes.py): 0 and 2 are its end; anything else
# is another try, after a pause, up to TRIES in a row. A try that lasted an hour begins
# the count anew. Its output goes to ~/podgcm/log, and from there to LOGS every minute.
set -euo pipefail

source_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=${PODGCM_FOLDER:-$HOME/podgcm}
pause=${PODGCM_PAUSE:-10}      # s, before the second try; doubled after each
healthy=${PODGCM_HEALTHY:-3600} # s
every=${PODGCM_COPY_EVERY:-60}  # s, between copies of the log
mkdir -p "$folder"
cd "$folder"

# The command inherits the lock: as long as either lives, there is no second one.
locked() { [ -e lock ] && ! flock --nonblock lock true; }

# Of a zombie that nobody waits for there is no command line.
alive() { grep --quiet --no-messages . "/proc/$1/cmdline"; }

say() { echo "$(date -u +%FT%TZ) worker.sh: $*" >>log; }

copy_log() {
  [ -z "$1" ] || gcloud storage cp log "$1/$(hostname).log" --quiet >copy 2>&1 || true
}

install() {
  if locked; then echo "it runs already"; return; fi
  # Images of TPU VMs have older Pythons; uv fetches one that is not there.
  if [ ! -x venv/bin/python ]; then
    python3 -m pip install --quiet --upgrade --target uv uv
    PYTHONPATH=uv python3 -m uv venv --quiet --seed --python 3.11 venv
  fi
  # Not over the old one: modules that are no more would stay.
  rm -rf source
  mv new source
  cd source
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt '.[tpu,cloud]'
}

start() {
  local command
  command=$(printf '%q ' "$@")
  for _ in $(seq 100); do # a loop that has ended holds its lock for a moment
    [ -e code ] && locked || break
    sleep 0.05
  done
  if locked; then
    [ "$command" = "$(cat command)" ] && { echo "it runs already"; return; }
    echo "error: another command runs on $(hostname); stop it first: $(cat command)" >&2
    return 2
  fi
  echo "$command" >command
  rm -f code stopped
  nohup setsid bash "$source_folder/launch/cloud/worker.sh" loop "$@" \
    >>log 2>&1 </dev/null &
  for _ in $(seq 50); do # until the lock is taken, for `status`
    ! locked && [ ! -e code ] || return 0
    sleep 0.05
  done
}

loop() {
  local tries=$1 logs=$2 attempt=0 failures=0 child="" stopped="" signalled code again
  shift 2
  exec 9>lock
  flock --timeout 5 9 || return 0 # whoever looks whether it is locked locks it shortly
  echo $$ >loop
  export PATH="$folder/venv/bin:$PATH"
  if [ -d "$source_folder" ]; then cd "$source_folder"; fi
  trap 'stopped=1 signalled=1; [ -z "$child" ] || kill -TERM "$child" || true' TERM
  ( # as long as the loop lives
    cd "$folder"
    while sleep "$every" && alive $$; do copy_log "$logs"; done
  ) 9>&- &
  local copier=$!
  while true; do
    attempt=$((attempt + 1))
    (cd "$folder" && echo "$attempt" >attempt && say "try $attempt: $*")
    SECONDS=0
    "$@" &
    child=$!
    echo "$child" >"$folder/pid"
    [ -z "$stopped" ] || kill -TERM "$child" || true
    signalled="" code=0
    wait "$child" || code=$?
    while [ -n "$signalled" ]; do # a signal ends `wait` before the command
      signalled="" again=0
      wait "$child" || again=$?
      [ "$again" = 127 ] || code=$again
    done
    child=""
    (cd "$folder" && say "exit code $code after $SECONDS s")
    [ "$code" != 0 ] && [ "$code" != 2 ] && [ -z "$stopped" ] || break
    if [ "$SECONDS" -ge "$healthy" ]; then failures=0; fi
    failures=$((failures + 1))
    [ "$failures" -lt "$tries" ] || break
    sleep $((pause * 2 ** (failures < 6 ? failures - 1 : 5))) &
    wait $! || true
    [ -z "$stopped" ] || break
  done
  kill "$copier" 2>/dev/null || true
  cd "$folder"
  # Told to stop before it heeds that (143), or between tries: preempted all the same.
  if [ -n "$stopped" ] && [ "$code" != 0 ] && [ "$code" != 2 ]; then code=75; fi
  copy_log "$logs"
  echo "$code" >code.new && mv code.new code
}

status() {
  local state=absent
  if [ -e code ]; then
    state="$([ -e stopped ] && echo stopped || echo ended) $(cat code)"
  elif locked; then
    state="running $(cat attempt 2>/dev/null || echo 1)"
  elif [ -e lock ]; then # killed together with its loop, or the host was restarted
    state=lost
  fi
  echo "podgcm-worker $(hostname) $state"
}

signal() {
  locked || { echo "error: nothing runs on $(hostname)" >&2; return 1; }
  kill "-$1" "$(cat pid)"
}

stop() {
  locked || return 0
  touch stopped
  if alive "$(cat loop)"; then kill -TERM "$(cat loop)"; else signal TERM; fi
}

case ${1:-} in
  install | start | loop | status | signal | stop) "$@" ;;
  log) tail -n "${2:-100}" log ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
