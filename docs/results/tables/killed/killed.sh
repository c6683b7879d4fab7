#!/bin/bash
# A study killed twice on the way, beside one that nobody touched. Usage: killed.sh PYTHON WORK
PY=$1; W=$2; mkdir -p $W
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
study() { $PY -m cclslr study table3 --seeds 0 --store $W/$1 --out $W/$1.out >> $W/$1.log 2>&1; }
training() { pgrep -f "study.child train .*$W/killed/" | head -1; }
wait_for() { until [ -n "$(training)" ]; do sleep 1; done; sleep $1; }
study whole &
study killed & 
wait_for 100; kill -9 $(training); echo "$(date +%T) kill -9 of the training" >> $W/events.log
while pgrep -f "study table3 .*$W/killed " > /dev/null; do sleep 1; done
study killed &
wait_for 150; kill -9 $(pgrep -f "cclslr study table3 .*$W/killed "); echo "$(date +%T) kill -9 of the engine" >> $W/events.log
sleep 5; study killed
wait
cmp $W/whole.out/results.csv $W/killed.out/results.csv && echo "$(date +%T) results.csv of both: the same bytes" >> $W/events.log
