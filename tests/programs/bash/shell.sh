# status: 0
# needs: /bin/bash
trap 'echo usr1' USR1
trap 'echo exit' EXIT
for i in $(seq 20); do (echo "$i"); done | sort -n | tail -1
kill -USR1 $$
sleep 0.05 & wait
diff <(echo a) <(echo b)
diff <(sleep 0.05; echo a) <(echo a)
cat <<<word
false | true
echo "${PIPESTATUS[*]}"
big=$(seq 20000)
cat <<END | md5sum
$big
END
