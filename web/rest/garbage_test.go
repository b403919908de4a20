package rest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/web/rest"
)

// nasty are what path variables, queries, headers and bodies are made from.
var nasty = []string{
	"", "j1", "j2", "..", "../../etc/passwd", "%2e%2e%2f", "a\x00b", "é\u202e", "<script>alert(1)</script>", "'; DROP TABLE jobs; --", "-1", "0", "1",
	"99999999999999999999", "debug", "ERROR", "NaN", "%", "%zz", "a&b=c", "a;b", "*", "{id}", strings.Repeat("long", 3000), "\r\nX: y", "http://elsewhere/",
}

// TestEveryRouteTakesGarbage needs no list of routes: it has the server's own.
func TestEveryRouteTakesGarbage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	variable := regexp.MustCompile(`\{[a-z]+\}`)
	f := newFixture(t)
	for _, pattern := range rest.Routes() {
		answers := map[int]int{}
		for range 1000 {
			method, path, _ := strings.Cut(pattern, " ")
			if rng.IntN(5) == 0 {
				method = pick("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW", "get")
			}
			u := &url.URL{Path: variable.ReplaceAllStringFunc(path, func(string) string { return pick(nasty...) })}
			if rng.IntN(2) == 0 {
				u.RawQuery = pick("level", "tail", "limit", pick(nasty...)) + pick("=", "==", "") + pick(nasty...) + pick("", "&", "&level=info")
			}
			body := strings.Repeat(pick(nasty...), rng.IntN(20))
			if rng.IntN(2) == 0 {
				body = pick("{}", `{"uri": "file:///s"}`)
			}
			r := &http.Request{Method: method, URL: u, Host: "x", Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Body: io.NopCloser(strings.NewReader(body))}
			for range rng.IntN(3) {
				r.Header.Set(pick("Accept", "Content-Type", "Origin", "Sec-Fetch-Site", "Range", "Content-Encoding", "If-None-Match", "Last-Event-ID"), pick(nasty...))
			}
			w := httptest.NewRecorder()
			begin := time.Now()
			f.handler.ServeHTTP(w, r.WithContext(t.Context()))
			answers[w.Code]++
			checkAnswer(t, method+" "+u.String(), w, time.Since(begin))
			if t.Failed() {
				return
			}
		}
		// Most of it must have come through to the route, or this tests nothing.
		if answers[http.StatusOK] == 0 {
			t.Errorf("%s: no answer is 200: %v", pattern, answers)
		}
	}
}

func checkAnswer(t *testing.T, call string, w *httptest.ResponseRecorder, took time.Duration) {
	t.Helper()
	call = call[:min(len(call), 300)]
	if w.Code >= 500 || took > 5*time.Second {
		t.Errorf("%s: status %d after %v: %s", call, w.Code, took, w.Body)
	}
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	body := w.Body.Bytes()
	switch {
	case slices.Contains([]string{"application/json", "application/problem+json"}, kind):
		if !json.Valid(body) || bytes.Contains(body, []byte("<script")) {
			t.Errorf("%s: body %s", call, body)
		}
	case kind == "text/plain" || w.Code == http.StatusForbidden || w.Code >= 300 && w.Code < 400:
	default:
		t.Errorf("%s: status %d with content of type %q", call, w.Code, kind)
	}
}
