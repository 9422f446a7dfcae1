# status: 0
# needs: /bin/tar
cd "$(mktemp -d)" || exit 1
tar czf archive.tgz -C /usr/include linux && tar tzf archive.tgz | sort | md5sum
tar xzf archive.tgz && diff -r linux /usr/include/linux && find linux | wc -l
