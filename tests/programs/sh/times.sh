# status: 0
timeout 0.1 sleep 5; echo "timeout $?"
timeout -s KILL 0.1 sleep 5; echo "killed $?"
timeout 5 true; echo "quick $?"
a=$(date +%s); sleep 0.3; b=$(date +%s); test $((b - a)) -le 5 && echo plausible
test $(date +%Y) -ge 2024 && echo year
usleep 1000 && echo slept
