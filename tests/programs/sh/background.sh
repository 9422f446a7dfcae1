# status: 0
(exit 3) & a=$!
(sleep 0.05; exit 4) & b=$!
sleep 5 & c=$!
kill -9 $c
wait $a; echo "a $?"
wait $b; echo "b $?"
wait $c 2>/dev/null; echo "c $?"
wait; echo "all $?"
wait 999999 2>/dev/null; echo "unknown $?"
for i in 1 2 3 4; do (sleep 0.$i; echo "worker $i") & done
wait
