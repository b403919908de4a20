package gcsstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"google.golang.org/api/option"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/checkpointingtest"
	"github.com/lintelrun/lintel/internal/fault"
)

const bucket = "checkpoints"

// fake is a Cloud Storage in this process, which fails as its caller likes.
func fake(t *testing.T, broken func(*http.Request) *http.Response) *Store {
	t.Helper()
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, Writer: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	client := server.HTTPClient()
	next := client.Transport
	client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err // which the fake does not look at
		}
		if broken == nil {
			return next.RoundTrip(r)
		}
		if answer := broken(r); answer != nil {
			if r.Body != nil {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			answer.Request = r
			return answer, nil
		}
		return next.RoundTrip(r)
	})
	s, err := New(t.Context(), Config{Bucket: bucket, Prefix: "jobs", ChunkBytes: 1 << 20, Backoff: time.Millisecond, Options: []option.ClientOption{option.WithHTTPClient(client)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int) *http.Response {
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader("no"))}
}

func TestStore(t *testing.T) {
	checkpointingtest.Run(t, func(t *testing.T) checkpointing.Store { return fake(t, nil) })
}

// Every second request is answered by 503, and all goes well all the same.
func TestRequestsAreTriedAgain(t *testing.T) {
	var n atomic.Int64
	s := fake(t, func(*http.Request) *http.Response {
		if n.Add(1)%2 == 1 {
			return answer(http.StatusServiceUnavailable)
		}
		return nil
	})
	for _, size := range []int{10, 3 << 20} {
		name := fmt.Sprintf("x%d", size)
		if err := s.Create(t.Context(), name, bytes.NewReader(make([]byte, size))); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Stat(t.Context(), name); err != nil || got != int64(size) {
			t.Errorf("%d bytes, %v", got, err)
		}
	}
}

func TestClassesOfErrors(t *testing.T) {
	for status, want := range map[int]fault.Class{
		http.StatusServiceUnavailable: fault.Retryable, http.StatusTooManyRequests: fault.Retryable, http.StatusForbidden: fault.Internal,
	} {
		var requests atomic.Int64
		s := fake(t, func(*http.Request) *http.Response {
			requests.Add(1)
			return answer(status)
		})
		err := s.Create(t.Context(), "x", strings.NewReader("x"))
		if fault.ClassOf(err) != want {
			t.Errorf("%d is of class %v: %v", status, fault.ClassOf(err), err)
		}
		if n := requests.Load(); n > 5 {
			t.Errorf("%d requests were made of one", n)
		}
	}
}

// An upload that breaks off leaves nothing, and its address is in no error.
func TestBrokenUploads(t *testing.T) {
	var puts atomic.Int64
	s := fake(t, func(r *http.Request) *http.Response {
		if r.URL.Query().Get("upload_id") != "" && puts.Add(1) > 1 {
			return answer(http.StatusBadGateway)
		}
		return nil
	})
	err := s.Create(t.Context(), "x", bytes.NewReader(make([]byte, 4<<20)))
	if fault.ClassOf(err) != fault.Retryable || puts.Load() < 2 {
		t.Errorf("after %d parts: %v", puts.Load(), err)
	}
	if err != nil && strings.Contains(err.Error(), "upload_id") {
		t.Errorf("the address of the upload: %v", err)
	}
	if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, checkpointing.ErrAbsent) {
		t.Errorf("a part of it is there: %v", err)
	}
}

// What is damaged on its way is refused by the service.
func TestChecksumsAreSent(t *testing.T) {
	var sent atomic.Bool
	s := fake(t, func(r *http.Request) *http.Response {
		if r.Method == http.MethodPost && r.Body != nil {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			sent.Store(sent.Load() || bytes.Contains(body, []byte(`"crc32c"`)))
		}
		return nil
	})
	if err := s.Create(t.Context(), "x", strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	if !sent.Load() {
		t.Error("no checksum was sent")
	}
}

// Listings come in pages of 1,000.
func TestPages(t *testing.T) {
	s := fake(t, nil)
	const n = 1100
	for i := range n {
		if err := s.Create(t.Context(), fmt.Sprintf("%04d", i), strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	if err := s.List(t.Context(), "", func(name string, _ int64) error {
		if name != fmt.Sprintf("%04d", seen) {
			return fmt.Errorf("%s after %d", name, seen)
		}
		seen++
		return nil
	}); err != nil || seen != n {
		t.Errorf("%d of %d: %v", seen, n, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, bad := range []Config{{}, {Bucket: "b", Prefix: "../x"}, {Bucket: "b", Attempts: -1}} {
		if err := bad.Validate(); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
