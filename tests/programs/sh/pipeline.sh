# status: 143
for i in 1 2 3; do echo $i | sed s/^/n/; done | wc -l
(sleep 0.1; echo done) &
wait
kill -TERM $$
