package machine

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestProcessors(t *testing.T) {
	idle, total, err := Processors()
	if err != nil || idle <= 0 || total <= idle {
		t.Errorf("idle %v of %v, error %v", idle, total, err)
	}
}

// connection returns both ends of one.
func connection(t *testing.T, network string) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// A child that inherits one end of a connection and closes ours owns it, and is seen to work
// and to wait.
func TestPeer(t *testing.T) {
	client, server := connection(t, "tcp4")
	f, err := client.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sh", "-c", "while read -r n; do i=0; while [ $i -lt $n ]; do i=$((i+1)); done; echo done; done")
	child.ExtraFiles = []*os.File{f}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := child.Wait(); err != nil {
			t.Error(err)
		}
	})
	f.Close()
	client.Close()

	p, err := Peer(server.RemoteAddr())
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != child.Process.Pid {
		t.Errorf("found process %d, want the child, %d", p.pid, child.Process.Pid)
	}
	wanted := func(n string) time.Duration {
		t.Helper()
		before, err := p.Wanted()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write([]byte(n + "\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		after, err := p.Wanted()
		if err != nil {
			t.Fatal(err)
		}
		return after - before
	}
	little, much := wanted("0"), wanted("300000")
	if much < 5*time.Millisecond || much < little {
		t.Errorf("counting took %v of a processor, and next to nothing %v", much, little)
	}
}

func TestPeerIsNotHere(t *testing.T) {
	client, server := connection(t, "tcp")
	addr := server.RemoteAddr()
	if _, err := Peer(addr); err != nil {
		t.Errorf("our own connection: %v", err)
	}
	client.Close()
	server.Close()
	for _, a := range []net.Addr{
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80},
		&net.UnixAddr{Name: "x"},
	} {
		if p, err := Peer(a); err == nil {
			t.Errorf("%v belongs to %d", a, p.pid)
		}
	}
}

func TestProcessHasEnded(t *testing.T) {
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	p := &Process{pid: child.Process.Pid}
	if w, err := p.Wanted(); err == nil {
		t.Errorf("it wants %v", w)
	}
}
