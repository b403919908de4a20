package rest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// savepointBody is what a request for a savepoint says; no body at all is fine.
type savepointBody struct {
	// URI is that of the folder for the savepoint, "" where the server is to choose.
	URI string `json:"uri"`
}

// stopBody is what a request to stop a job says.
type stopBody struct {
	savepointBody
	// Drain has the job come to an end without loss before.
	Drain bool `json:"drain"`
}

func (c Config) savepoint(w http.ResponseWriter, r *http.Request) {
	var body savepointBody
	if !c.begin(w, r, &body) {
		return
	}
	made, err := c.Jobs.Savepoint(r.Context(), r.PathValue("id"), body.URI)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, made)
}

func (c Config) stop(w http.ResponseWriter, r *http.Request) {
	var body stopBody
	if !c.begin(w, r, &body) {
		return
	}
	made, err := c.Jobs.Stop(r.Context(), r.PathValue("id"), body.URI, body.Drain)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, made)
}

// begin reads the body of a call that may take any time; false if that has been answered.
func (c Config) begin(w http.ResponseWriter, r *http.Request, body any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(body); err != nil && !errors.Is(err, io.EOF) {
		c.problem(w, http.StatusBadRequest, "the request's body: "+err.Error())
		return false
	}
	// The limits of other calls would end this one. A reader of a test has none.
	calls := http.NewResponseController(w)
	if err := errors.Join(calls.SetReadDeadline(time.Time{}), calls.SetWriteDeadline(time.Time{})); err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.Logger.Warn("a call that may take long has the limits of others", "path", r.URL.Path, "error", err)
	}
	return true
}
