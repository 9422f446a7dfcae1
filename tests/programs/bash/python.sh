# status: 0
# needs: /usr/bin/python3
cat >"$HOME/work.py" <<'END'
import multiprocessing, os, sqlite3, subprocess, threading

def square(x):
    return x * x

if __name__ == "__main__":
    seen = []
    threads = [threading.Thread(target=seen.append, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(sorted(seen))
    print(subprocess.run(["sort"], input=b"b\na\n", capture_output=True).stdout)
    for method in "fork", "spawn":
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(square, range(10)))
    database = sqlite3.connect(os.environ["HOME"] + "/data.db")
    database.execute("create table t(a)")
    database.executemany("insert into t values(?)", [(i,) for i in range(100)])
    database.commit()
    print(database.execute("select sum(a) from t").fetchone())
END
rm -f "$HOME/data.db"
exec /usr/bin/python3 "$HOME/work.py"
