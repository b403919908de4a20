//go:build !race

package h2

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// smallWrite is how many bytes are written without a word to Go's scheduler.
const smallWrite = 16 << 10

// socket reads and writes a connection without telling Go's scheduler of the system calls, which return at
// once as the socket does not block. It would take each as a reason to wake the monitor's thread
// and perhaps to give away the processor. One goroutine reads, and one writes at a time.
type socket struct {
	net.Conn
	raw syscall.RawConn

	reading, writing  transfer
	tryRead, tryWrite func(fd uintptr) bool
}

// transfer is a read or write under way.
type transfer struct {
	b    []byte
	done int
	err  error
}

func newSocket(nc net.Conn) net.Conn {
	c, ok := nc.(syscall.Conn)
	if !ok {
		return nc
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nc // it is of no use; the first read will say why
	}
	s := &socket{Conn: nc, raw: raw}
	s.tryRead = func(fd uintptr) bool {
		r := &s.reading
		return r.call(syscall.SYS_READ, fd)
	}
	s.tryWrite = func(fd uintptr) bool {
		w := &s.writing
		for w.done < len(w.b) {
			if !w.call(syscall.SYS_WRITE, fd) {
				return false
			}
			if w.err != nil {
				break
			}
		}
		return true
	}
	return s
}

// call makes a system call with the bytes that remain. It returns false if it would have to wait.
func (t *transfer) call(number, fd uintptr) bool {
	rest := t.b[t.done:]
	for {
		n, _, err := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
		switch err {
		case 0:
			t.done += int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.err = os.NewSyscallError("transfer", err)
			return true
		}
	}
}

// Read is that of net.Conn.
func (s *socket) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	s.reading = transfer{b: b}
	err := s.raw.Read(s.tryRead)
	n := s.reading.done
	switch {
	case err != nil:
		return n, err
	case s.reading.err != nil:
		return n, s.reading.err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write is that of net.Conn.
func (s *socket) Write(b []byte) (int, error) {
	if len(b) > smallWrite {
		return s.Conn.Write(b)
	}
	s.writing = transfer{b: b}
	err := s.raw.Write(s.tryWrite)
	n := s.writing.done
	if err == nil {
		err = s.writing.err
	}
	s.writing.b = nil
	return n, err
}
