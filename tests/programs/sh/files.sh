# status: 0
d=$(mktemp -d) && cd $d || exit 1
mkdir -p a/b/c && echo one > a/one && echo two >> a/one
cp a/one a/b/two && mv a/b/two a/b/c/three && ln -s ../one a/b/link && ln a/one a/hard
cat a/b/link && readlink a/b/link
find . | sort
tar cf - a | (mkdir copy && cd copy && tar xf -)
diff -r a copy/a && echo same
chmod 640 a/one; stat -c '%a %s %h' a/one
wc -c < a/one; : > a/one; test -s a/one || echo emptied
rm -r a copy; ls -A | wc -l
cd / && rmdir $d && test ! -e $d && echo gone
