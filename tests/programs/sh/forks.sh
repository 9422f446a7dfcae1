# status: 0
i=0
while [ $i -lt 200 ]; do x=$(echo $i); i=$((x + 1)); done
echo $i
echo deep | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat
f() { [ $1 -eq 0 ] && echo bottom || (f $(($1 - 1))); }
f 20
