# status: 0
read -r first; echo "[$first]"
while read -r line; do echo "<$line>"; done
echo "rest: $line"
cat | wc -c
