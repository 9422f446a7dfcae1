// Threads, channels, panics caught, a child process, files and time; prints the same every time.
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{mpsc, Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

fn main() {
    let (sender, receiver) = mpsc::channel();
    let workers: Vec<_> = (0..8u64)
        .map(|id| {
            let sender = sender.clone();
            thread::spawn(move || {
                for i in 0..1000u64 {
                    sender.send(id * 1000 + i).unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    println!("sum {}", receiver.iter().sum::<u64>());
    for worker in workers {
        worker.join().unwrap();
    }

    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let other = Arc::clone(&pair);
    let player = thread::spawn(move || {
        for _ in 0..500 {
            let mut turn = other.1.wait_while(other.0.lock().unwrap(), |t| *t % 2 == 0).unwrap();
            *turn += 1;
            other.1.notify_all();
        }
    });
    for _ in 0..500 {
        let mut turn = pair.1.wait_while(pair.0.lock().unwrap(), |t| *t % 2 == 1).unwrap();
        *turn += 1;
        pair.1.notify_all();
    }
    player.join().unwrap();
    println!("turns {}", *pair.0.lock().unwrap());

    panic::set_hook(Box::new(|_| {}));
    let outcome = thread::spawn(|| -> i32 { panic!("on purpose") }).join();
    println!("panicked {}", outcome.is_err());

    let map = Arc::new(RwLock::new(Vec::new()));
    thread::scope(|scope| {
        for i in 0..4 {
            let map = &map;
            scope.spawn(move || map.write().unwrap().push(i));
        }
    });
    let mut values = map.read().unwrap().clone();
    values.sort();
    println!("{:?}", values);

    let start = Instant::now();
    thread::sleep(Duration::from_millis(20));
    println!("slept {}", start.elapsed() >= Duration::from_millis(20));

    let mut child = Command::new("/bin/busybox")
        .args(["tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through a child\n").unwrap();
    print!("{}", String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap());
    println!("{:?}", Command::new("/nonexistent/program").spawn().map_err(|e| e.kind()).err());

    let path = std::env::temp_dir().join(format!("caisson-rust-{}", std::process::id()));
    fs::write(&path, "written by rust\n").unwrap();
    print!("{}", fs::read_to_string(&path).unwrap());
    fs::remove_file(&path).unwrap();
    std::process::exit(6);
}
