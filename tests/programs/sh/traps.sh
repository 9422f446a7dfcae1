# status: 5
trap 'echo got TERM' TERM
trap 'echo got USR1' USR1
trap 'echo leaving; exit 5' EXIT
kill -TERM $$
kill -USR1 $$
(trap 'echo sub; exit 3' TERM; kill -TERM $(exec sh -c 'echo $PPID'); sleep 1)
echo "subshell left $?"
trap '' INT
kill -INT $$
echo still here
exit 1
