# status: 42
true; echo $?; false; echo $?
/nonexistent/program 2>/dev/null; echo $?
/ 2>/dev/null; echo $?
sh -c 'kill -9 $$'; echo $?
sh -c 'kill -SEGV $$' 2>/dev/null; echo $?
sh -c 'exit 300'; echo $?
(exec sh -c 'exit 7'); echo $?
! true; echo $?
sh -c 'exec /nonexistent/x' 2>/dev/null; echo $?
exit 42
