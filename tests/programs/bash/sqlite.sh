# status: 0
# needs: /usr/bin/sqlite3
exec sqlite3 "$(mktemp -d)/db" 'create table t(a); insert into t values(1),(2); select sum(a) from t;'
