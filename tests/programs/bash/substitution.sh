# status: 0
# needs: /usr/bin/diff
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
  diff <(echo a; echo "$i") <(echo b; echo "$i")
done | sort | uniq -c
paste <(seq 1 5) <(seq 6 10) <(printf '%s\n' a b c d e)
cat <(cat <(cat <(echo nested)))
seq 1 100000 | tee >(tail -n 1) >/dev/null | cat | sort
