# status: 0
# needs: /usr/bin/sha256sum
cd "$(mktemp -d)" || exit 1
seq 3000 | shuf --random-source=<(yes) | sort -n | uniq -c | awk '{n += $2} END {print n}'
seq 100 | tac | head -3 | paste -sd, -
seq 20 | split -l 7 - part. && wc -l part.* && cat part.* | sha256sum
printf 'b 2\na 1\n' >left && printf 'a x\nb y\n' >right
sort left | join - right && comm -12 <(cut -d' ' -f1 left | sort) <(cut -d' ' -f1 right)
dd if=/dev/zero of=holes bs=1k seek=64 count=1 status=none && stat -c %s holes && truncate -s 10 holes && od -An -tx1 holes
mkdir -p a/b/c && touch a/b/c/d && cp -a a copy && find copy | sort && mv copy/b moved && rm -r a copy && ls -R
ln moved/c/d hard && ln -s moved/c/d soft && stat -c '%h %F' hard soft && readlink -f soft | xargs basename
install -m 640 holes installed && stat -c %a installed && chmod u+x,g-r installed && stat -c %A installed
tee one two <left >/dev/null && cmp one two && md5sum one two && base64 one | base64 -d | cksum
date -u -d @0 +%F && expr 6 '*' 7 && factor 360 && numfmt --to=iec 1048576 && nl left && fold -w 2 left && tr a-z A-Z <left
env -i A=1 printenv A && timeout 5 true && nice -n 3 nice && (ulimit -n 64 && ulimit -n) && test -x "$(command -v ls)" && echo done
du -k --apparent-size holes | cut -f1 && sleep 0.01 && yes | head -2 && basename /x/y.z .z && dirname /x/y && mktemp -u XXXX | wc -c
