# status: 0
dd if=/dev/zero bs=64k count=160 2>/dev/null | md5sum
dd if=/dev/zero bs=1 count=3000 2>/dev/null | od -An -tx1 | sort -u | wc -l
head -c 100000 /dev/urandom | tee /dev/null | wc -c
echo "b a c" | xargs -n 1 echo arg | sort
seq 1 500 | xargs -n 50 echo | wc -l
seq 1 3000 | gzip -c | gunzip -c | md5sum
echo hello > /dev/null; cat /dev/null | wc -c; (echo x > /dev/full) 2>/dev/null || echo full
