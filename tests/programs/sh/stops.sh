# status: 0
(while :; do sleep 0.02; done) & p=$!
state() { sed 's/.*) \(.\).*/\1/' /proc/$p/stat; }
kill -STOP $p; sleep 0.1; state
kill -CONT $p; sleep 0.1; state | tr RS xx
kill -TERM $p; wait $p 2>/dev/null; echo "ended $?"
