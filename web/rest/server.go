// Package rest is Lintel's HTTP side: health, Prometheus metrics and jobs as JSON.
// It knows nothing of how jobs run; what it needs of them is the Jobs interface.
package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lintelrun/lintel/web/jobview"
)

// Jobs is what the API shows and steers. Unknown ids yield errors that wrap
// jobview.ErrNotFound. Its methods are called concurrently.
type Jobs interface {
	List(ctx context.Context) ([]jobview.Job, error)
	Describe(ctx context.Context, id string) (jobview.Detail, error)
	Cancel(ctx context.Context, id string) (state string, err error)
	// Drain asks a running job to come to an end without loss. For a job that does
	// not run yet the error wraps jobview.ErrState.
	Drain(ctx context.Context, id string) (state string, err error)
	// Savepoint takes one of a running job, which goes on, and returns when it is complete. Stop ends the
	// job with it. Without a URI it goes where the server chooses. Errors wrap jobview.ErrState
	// or ErrInvalid where the job can't have one, or not there.
	Savepoint(ctx context.Context, id, uri string) (jobview.Savepoint, error)
	Stop(ctx context.Context, id, uri string, drain bool) (jobview.Savepoint, error)
	Metrics(ctx context.Context, id string) ([]jobview.Metric, error)
	// Checkpoints are the newest of the job that have ended, oldest first.
	Checkpoints(ctx context.Context, id string) ([]jobview.Checkpoint, error)
	// Logs gives what the job has said so far to each, oldest first.
	Logs(ctx context.Context, id string, each func(jobview.LogEntry) error) error
}

// Config is what a server needs.
type Config struct {
	Jobs Jobs
	// Gatherer holds the metrics of /metrics.
	Gatherer prometheus.Gatherer
	// Ready returns why the server takes no jobs now, nil if it does.
	// It is called at every /readyz and must not block.
	Ready func() error
	// Version is served at /v1/version as it is.
	Version any
	// Logger gets what goes wrong on our side; nil means slog.Default.
	Logger *slog.Logger
}

// Validate names what is missing.
func (c Config) Validate() error {
	switch {
	case c.Jobs == nil:
		return errors.New("rest: Config.Jobs is missing")
	case c.Gatherer == nil:
		return errors.New("rest: Config.Gatherer is missing")
	case c.Ready == nil:
		return errors.New("rest: Config.Ready is missing")
	}
	return nil
}

const (
	// maxBody is the largest request body read, in bytes.
	maxBody = 64 << 10
	// maxHeader is the largest request header read, in bytes.
	maxHeader = 64 << 10
)

// New makes a server with all routes and limits, to be started by its Serve.
// Slow or silent clients are cut off.
func New(c Config) (*http.Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &http.Server{
		Handler:           c.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn),
	}, nil
}

// routes has a line for everything that is served, by patterns of http.ServeMux.
var routes = []struct {
	pattern string
	handler func(Config, http.ResponseWriter, *http.Request)
}{
	{"GET /healthz", func(_ Config, w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") }},
	{"GET /readyz", Config.ready},
	{"GET /metrics", Config.prometheus},
	{"GET /v1/version", func(c Config, w http.ResponseWriter, _ *http.Request) { c.json(w, c.Version) }},
	{"GET /v1/jobs", Config.list},
	{"GET /v1/jobs/{id}", Config.describe},
	{"GET /v1/jobs/{id}/metrics", Config.metrics},
	{"GET /v1/jobs/{id}/logs", Config.logs},
	{"GET /v1/jobs/{id}/checkpoints", Config.checkpoints},
	{"POST /v1/jobs/{id}/cancel", Config.cancel},
	{"POST /v1/jobs/{id}/drain", Config.drain},
	{"POST /v1/jobs/{id}/savepoints", Config.savepoint},
	{"POST /v1/jobs/{id}/stop", Config.stop},
}

// Routes returns the patterns of all routes, "METHOD /path/{variable}", for tests
// that leave none out.
func Routes() []string {
	patterns := make([]string, len(routes))
	for i, r := range routes {
		patterns[i] = r.pattern
	}
	return patterns
}

func (c Config) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { r.handler(c, w, req) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { c.unknown(mux, w, r) })
	// Pages of other origins, open in the user's browser, must not cancel jobs.
	return http.MaxBytesHandler(c.readBody(http.NewCrossOriginProtection().Handler(mux)), maxBody)
}

// readBody reads what a client sends before anything is answered: a connection that is closed
// over unread bytes is reset, and the client may lose the answer.
func (c Config) readBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			c.problem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request's body is larger than %d bytes; no call here needs that", tooLarge.Limit))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func (c Config) ready(w http.ResponseWriter, r *http.Request) {
	if err := c.Ready(); err != nil {
		text(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	text(w, http.StatusOK, "ready")
}

func (c Config) prometheus(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(c.Gatherer, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelError),
	}).ServeHTTP(w, r)
}

func text(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(s + "\n"))
}
