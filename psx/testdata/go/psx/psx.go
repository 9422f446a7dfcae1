// Package psx makes one system call on every thread of a Go program with cgo.
package psx

// #cgo pkg-config: libpsx
// #include <errno.h>
// #include <sys/psx_syscall.h>
import "C"

import "syscall"

// Syscall3 makes the call on all threads. The results are the calling thread's; as elsewhere with
// cgo, r2 is r1.
func Syscall3(nr, a1, a2, a3 uintptr) (r1, r2 uintptr, err syscall.Errno) {
	v, e := C.psx_syscall3(C.long(nr), C.long(a1), C.long(a2), C.long(a3))
	return result(v, e)
}

// Syscall6 is Syscall3 with six arguments.
func Syscall6(nr, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno) {
	v, e := C.psx_syscall6(C.long(nr), C.long(a1), C.long(a2), C.long(a3), C.long(a4), C.long(a5), C.long(a6))
	return result(v, e)
}

func result(v C.long, e error) (uintptr, uintptr, syscall.Errno) {
	if v != -1 || e == nil {
		return uintptr(v), uintptr(v), 0
	}
	return uintptr(v), uintptr(v), e.(syscall.Errno)
}
