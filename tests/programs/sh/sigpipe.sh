# status: 0
yes | head -n 3
(yes; echo "yes left $?" >&2) 2>&1 >/dev/full | head -n 1 | wc -l
seq 1 100000 | head -n 2
seq 1 20000 | awk '{s += $1} END {print s}'
seq 1 1000 | sort -rn | uniq | tail -n 2
