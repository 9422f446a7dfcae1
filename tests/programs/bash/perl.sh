# status: 3
# needs: /usr/bin/perl
exec perl -e 'open F, "-|", "ls /usr"; print sort <F>; close F; if (!fork) { exit 3 } wait; print $? >> 8, "\n";
  $SIG{USR1} = sub { print "usr1\n"; exit 3 }; kill "USR1", $$; sleep 3;'
