# status: 0
f=$(mktemp)
exec 3>$f; echo to three >&3; exec 3>&-
exec 4<$f; read -r line <&4; echo "read: $line"; exec 4<&-
{ echo out; echo err >&2; } 2>&1 | sort
{ echo swapped >&2; } 3>&1 1>&2 2>&3 | tr a-z A-Z
ls /nonexistent 2>/dev/null || echo "ls failed"
echo closed >&9 2>/dev/null || echo "no descriptor"
echo a > $f; echo b >> $f; cat < $f; cat $f - < $f | wc -l
rm $f
