# status: 0
A=1 sh -c 'echo $A'; export B=2; env | grep ^B=; unset B; env | grep -c ^B=
env -i X=y sh -c 'env' | grep -v -e ^PWD -e ^SHLVL -e ^_ -e ^OLDPWD | sort
umask 077; umask; f=$(mktemp -d)/x; : > $f; stat -c %a $f; rm -r ${f%/*}
(ulimit -n 17; ulimit -n)
pwd; cd /usr/bin && pwd; cd - > /dev/null; pwd
uname -s; uname -m; id -u; whoami
readlink /proc/self/exe; cat /proc/self/comm; tr '\0' ' ' < /proc/self/cmdline; echo
test "$(readlink /proc/$$/cwd)" = "$(pwd)" && echo cwd
nice -n 5 nice; basename "$(readlink -f /proc/self/fd/0)" | cut -d: -f1
