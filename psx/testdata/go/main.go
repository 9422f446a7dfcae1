// A Go program with goroutines on many threads, some made while calls go on, drops a capability on
// all of them and sets no_new_privs, and looks in /proc/self/task at each.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"caisson/psxtest/psx"
)

const (
	prCapbsetDrop   = 24
	prSetNoNewPrivs = 38
	capNetRaw       = 13
	noSuchCall      = 9999
	callsMeanwhile  = 300
)

func field(status, name string) string {
	for _, line := range strings.Split(status, "\n") {
		if strings.HasPrefix(line, name+":") {
			return strings.TrimSpace(line[len(name)+1:])
		}
	}
	return "?"
}

func check(name string, good func(string) bool) {
	files, _ := filepath.Glob("/proc/self/task/*/status")
	if len(files) < 4 {
		fail("only %d threads", len(files))
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && !good(field(string(text), name)) {
			fail("%s: %s is %s", file, name, field(string(text), name))
		}
	}
}

func fail(format string, values ...interface{}) {
	fmt.Printf(format+"\n", values...)
	os.Exit(1)
}

func main() {
	for i := 0; i < 4; i++ {
		go func() {
			runtime.LockOSThread()
			for {
				time.Sleep(time.Millisecond)
			}
		}()
	}
	for i := 0; i < 2; i++ { // threads that come and go: a locked goroutine's thread ends with it
		go func() {
			for {
				done := make(chan bool)
				go func() {
					runtime.LockOSThread()
					close(done)
				}()
				<-done
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	if r1, r2, err := psx.Syscall3(noSuchCall, 0, 0, 0); err != syscall.ENOSYS || r1 != ^uintptr(0) || r2 != r1 {
		fail("no such call: %v %v %v", r1, r2, err)
	}
	for i := 0; i < callsMeanwhile; i++ {
		if r1, _, err := psx.Syscall3(syscall.SYS_GETPID, 0, 0, 0); err != 0 || int(r1) != os.Getpid() {
			fail("getpid: %v %v", r1, err)
		}
	}
	if _, _, err := psx.Syscall3(syscall.SYS_PRCTL, prCapbsetDrop, capNetRaw, 0); err != 0 {
		fail("drop: %v", err)
	}
	check("CapBnd", func(value string) bool {
		var bits uint64
		fmt.Sscanf(value, "%x", &bits)
		return bits != 0 && bits>>capNetRaw&1 == 0
	})
	if _, _, err := psx.Syscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); err != 0 {
		fail("no_new_privs: %v", err)
	}
	check("NoNewPrivs", func(value string) bool { return value == "1" })
	fmt.Println("all threads")
}
