package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/lintelrun/lintel/web/jobview"
)

// problem is an error as RFC 9457 wants it.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// json answers 200 with v. An error of encoding is ours and answers 500.
func (c Config) json(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		c.Logger.Error("answer can't be encoded", "error", err)
		c.problem(w, http.StatusInternalServerError, "the answer can't be encoded")
		return
	}
	write(w, http.StatusOK, "application/json", b)
}

func (c Config) problem(w http.ResponseWriter, code int, detail string) {
	b, err := json.MarshalIndent(problem{Title: http.StatusText(code), Status: code, Detail: detail}, "", "  ")
	if err != nil {
		panic(err) // strings and a number
	}
	write(w, code, "application/problem+json", b)
}

func write(w http.ResponseWriter, code int, kind string, b []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody to tell
}

// fail answers with the status that err stands for.
func (c Config) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, jobview.ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, jobview.ErrState):
		code = http.StatusConflict
	case errors.Is(err, jobview.ErrInvalid):
		code = http.StatusBadRequest
	case errors.Is(err, context.DeadlineExceeded):
		code = http.StatusGatewayTimeout
	case r.Context().Err() != nil:
		return // the client has gone
	}
	if code >= http.StatusInternalServerError {
		c.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	c.problem(w, code, err.Error())
}

// unknown answers where no route fits: 405 if another method would, else 404.
func (c Config) unknown(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := *r
		other.Method = method
		if _, pattern := mux.Handler(&other); pattern != "/" {
			w.Header().Set("Allow", method)
			c.problem(w, http.StatusMethodNotAllowed, r.URL.Path+" takes "+method)
			return
		}
	}
	c.problem(w, http.StatusNotFound, "nothing at "+r.URL.Path+"; jobs are at /v1/jobs")
}
