// Goroutines, channels, timers, select, signals, files, a subprocess and garbage collection; prints the same every time.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

func sieve(limit int) (primes []int) {
	numbers := make(chan int)
	go func(out chan int) {
		for i := 2; ; i++ {
			out <- i
		}
	}(numbers)
	for len(primes) < limit {
		prime := <-numbers
		primes = append(primes, prime)
		next := make(chan int)
		go func(in, out chan int) {
			for {
				if i := <-in; i%prime != 0 {
					out <- i
				}
			}
		}(numbers, next)
		numbers = next
	}
	return primes
}

func timers() string {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(2 * time.Second)
	for ticks := 0; ticks < 10; ticks++ {
		select {
		case <-ticker.C:
		case <-deadline:
			return "late"
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	return ctx.Err().Error()
}

func sleepers(count int) time.Duration {
	start := time.Now()
	var all sync.WaitGroup
	for i := 0; i < count; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			time.Sleep(50 * time.Millisecond)
		}()
	}
	all.Wait()
	return time.Since(start)
}

func collect() bool {
	var keep [][]byte
	for i := 0; i < 200; i++ {
		keep = append(keep, make([]byte, 256<<10))
		if len(keep) > 20 {
			keep = keep[10:]
		}
		for j := range keep[len(keep)-1] {
			keep[len(keep)-1][j] = byte(i)
		}
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.NumGC > 0 && keep[0][0] == keep[0][100]
}

func catchNil() (message string) {
	defer func() { message = strings.SplitN(fmt.Sprint(recover()), "\n", 2)[0] }()
	var nothing *int
	return fmt.Sprint(*nothing)
}

func main() {
	fmt.Println(sieve(60))
	fmt.Println(timers())
	if took := sleepers(2000); took > 5*time.Second || took < 50*time.Millisecond {
		fmt.Println("sleepers took", took)
	}
	fmt.Println("collected", collect())
	fmt.Println(catchNil())

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-signals)

	var mutex sync.Mutex
	total := 0
	var workers sync.WaitGroup
	for i := 0; i < 8; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			runtime.LockOSThread()
			for j := 0; j < 5000; j++ {
				mutex.Lock()
				total++
				mutex.Unlock()
			}
		}()
	}
	workers.Wait()
	fmt.Println(total)

	file, err := os.CreateTemp("", "caisson")
	if err == nil {
		fmt.Fprintln(file, "written by go")
		file.Close()
		bytes, _ := os.ReadFile(file.Name())
		os.Remove(file.Name())
		fmt.Print(string(bytes))
	} else {
		fmt.Println(err)
	}
	output, err := exec.Command("/bin/busybox", "echo", "from a child").Output()
	fmt.Print(string(output), err, "\n")
	err = exec.Command("/bin/busybox", "sh", "-c", "exit 9").Run()
	fmt.Println(err)
	os.Exit(3)
}
