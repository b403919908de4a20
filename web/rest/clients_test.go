package rest_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// serve starts a server of the fixture's handler and connects to it.
func serve(t *testing.T) net.Conn {
	t.Helper()
	s := httptest.NewUnstartedServer(newFixture(t).handler)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// A client that sends a body late, and wants the connection closed, gets its answer:
// the connection must not be reset over what was not read.
func TestLateBodyGetsItsAnswer(t *testing.T) {
	c := serve(t)
	write(t, c, "POST /v1/jobs/nobody/cancel HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n")
	early := make([]byte, 1)
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(early); n != 0 {
		t.Fatalf("an answer before the body has come (%v)", err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	write(t, c, strings.Repeat("x", 1000))
	if code := answer(t, c); code != http.StatusNotFound {
		t.Errorf("status %d, want 404", code)
	}
}

func TestLargeBodyIsRefused(t *testing.T) {
	c := serve(t)
	write(t, c, fmt.Sprintf("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 1<<30))
	write(t, c, strings.Repeat("x", 65<<10))
	if code := answer(t, c); code != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", code)
	}
}

func answer(t *testing.T, c net.Conn) int {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode
}
