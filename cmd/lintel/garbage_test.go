package main

import (
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lintelrun/lintel/internal/garbagetest"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/web/rest"
)

// sendGarbage sends garbage to all that is registered, which are at least so many methods.
func sendGarbage(t *testing.T, s *grpc.Server, address string, least int, g *garbagetest.Generator) {
	t.Helper()
	methods, err := garbagetest.Methods(s)
	if err != nil || len(methods) < least {
		t.Fatalf("methods %v, %v", methods, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	garbagetest.Run(t, conn, methods, g, 50)
}

// TestServerTakesGarbage sends garbage to whatever a server has registered at its
// Job API and its Fn API, and strange ids to its routes: it must be none the worse for it.
func TestServerTakesGarbage(t *testing.T) {
	testkit.Leaks(t)
	s, err := startServer(serverConfig{bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stopWithin(patience)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	// Environments that could be started stay out of it.
	g := &garbagetest.Generator{Rand: rand.New(rand.NewPCG(seed, 0)), Strings: []string{
		"t", "c", "w", "p", "beam:transform:impulse:v1", "beam:transform:flatten:v1", "beam:coder:bytes:v1", "beam:coder:global_window:v1",
	}}
	sendGarbage(t, s.jobs, s.jobAddress, 12, g)
	sendGarbage(t, s.fn.Registrar().(*grpc.Server), s.fn.Endpoint(), 4, g) // by nobody; package fnapi has the rest, and the other endpoints

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for _, pattern := range rest.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		for _, id := range []string{"nobody", "..%2f..%2fetc", "%00", "%F0%9F%A6%84", strings.Repeat("x", 5000)} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.httpAddress+strings.ReplaceAll(path, "{id}", id), strings.NewReader(strings.Repeat("x", 1000)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s with id %.30q: %.300v", pattern, id, err)
			}
			resp.Body.Close()
			if resp.StatusCode >= 500 {
				t.Errorf("%s with id %.30q: status %d", pattern, id, resp.StatusCode)
			}
		}
	}
	if err := s.ready(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if status, _ := get(t, "http://"+s.httpAddress+"/readyz"); status != 200 {
		t.Errorf("afterwards: status %d", status)
	}
}
