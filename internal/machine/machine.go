// Package machine tells from /proc (Linux) what the processors of this machine do and which
// processes want them. Elsewhere nothing is known: all that it has returns errors.
package machine

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// Processors returns how long all processors could have worked for us since the machine started,
// and how long they have been there. Processors that wait for a disk are idle, and those that work
// for processes of low priority as good as idle: these give way.
func Processors() (idle, total time.Duration, err error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, 0, err
	}
	stat, err := fs.Stat()
	if err != nil {
		return 0, 0, err
	}
	c := stat.CPUTotal // User has Guest in it
	free := c.Idle + c.Iowait + c.Nice
	all := free + c.User + c.System + c.IRQ + c.SoftIRQ + c.Steal
	return seconds(free), seconds(all), nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Process is a process of this machine. Safe for concurrent use.
type Process struct {
	pid int

	mu      sync.Mutex
	threads map[int]uint64 // what each has wanted at the last look, in ns
	wanted  time.Duration
}

// Peer returns the process that has the other end of a TCP connection, whose address there is addr.
// It is an error if that is not a process of this machine, or one that we may not look into.
func Peer(addr net.Addr) (*Process, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("machine: whose %v is can't be told: no TCP address", addr)
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	inode, err := socketOf(fs, tcp)
	if err != nil {
		return nil, err
	}
	processes, err := fs.AllProcs()
	if err != nil {
		return nil, err
	}
	socket := fmt.Sprintf("socket:[%d]", inode)
	for _, p := range processes {
		// Of other users', and those that have ended meanwhile, nothing can be read.
		if targets, err := p.FileDescriptorTargets(); err == nil && slices.Contains(targets, socket) {
			return &Process{pid: p.PID, threads: map[int]uint64{}}, nil
		}
	}
	return nil, fmt.Errorf("machine: no process that can be looked into has the connection of %v", addr)
}

// socketOf returns the inode of the socket with a local address.
func socketOf(fs procfs.FS, addr *net.TCPAddr) (uint64, error) {
	four, err := fs.NetTCP() //nolint:staticcheck // deprecated for netlink, which is faster and takes far more
	if err != nil {
		return 0, err
	}
	six, err := fs.NetTCP6() //nolint:staticcheck // IPv4 connections too, of those who listen to both
	if err != nil {
		six = nil // a kernel without
	}
	for _, s := range append(four, six...) {
		if int(s.LocalPort) == addr.Port && s.RemPort != 0 && s.LocalAddr.Equal(addr.IP) {
			return s.Inode, nil
		}
	}
	return 0, fmt.Errorf("machine: %v is not connected from here", addr)
}

// Wanted returns for how long the process's threads have run on a processor or waited for one,
// all together: since they began, as far as they were there at some call.
func (p *Process) Wanted() (time.Duration, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, err
	}
	threads, err := fs.AllThreads(p.pid)
	if err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := make(map[int]uint64, len(threads))
	for _, t := range threads {
		s, err := t.Schedstat()
		if err != nil {
			continue // it has ended
		}
		now[t.PID] = s.RunningNanoseconds + s.WaitingNanoseconds
		if was := p.threads[t.PID]; now[t.PID] > was {
			p.wanted += time.Duration(now[t.PID] - was)
		}
	}
	p.threads = now
	return p.wanted, nil
}
