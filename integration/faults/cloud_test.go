package faults

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/memstore"
	"github.com/lintelrun/lintel/checkpointing/protocol"
)

const bucket = "checkpoints"

// weather is what goes wrong with a cloud, each the share of requests that it happens to.
type weather struct {
	refused float64 // they are answered by 503 or 429
	lost    float64 // writes are done, and answered by 503
	partial float64 // half of an upload is read, and the connection cut
	denied  bool    // all are answered by 401
	latency time.Duration
}

// cloud is a Google Cloud Storage with a bucket, which checks the conditions of writes. What it does wrong is said by its weather.
type cloud struct {
	t      *testing.T
	fake   *fakestorage.Server
	server *httptest.Server

	mu      sync.Mutex // protects what follows
	random  *rand.Rand
	weather weather
	tokens  map[string]bool // that requests came with
	refused []time.Time     // requests, since the weather was set
	created map[string]int
}

// newCloud returns one that is asked for by the name of host, its own address if that is "".
func newCloud(t *testing.T, random *rand.Rand, host string) *cloud {
	t.Helper()
	c := &cloud{t: t, random: random, created: map[string]int{}, tokens: map[string]bool{}}
	c.server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	if host == "" {
		host = c.server.Listener.Addr().String()
	}
	var err error
	if c.fake, err = fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, Writer: io.Discard, PublicHost: host}); err != nil {
		t.Fatal(err)
	}
	c.fake.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	t.Cleanup(func() {
		c.server.Close()
		c.fake.Stop()
	})
	return c
}

// emulator is what tells clients of Cloud Storage where it is.
func (c *cloud) emulator() []string { return []string{"STORAGE_EMULATOR_HOST=" + c.server.URL} }

// set changes the weather.
func (c *cloud) set(w weather) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.weather, c.refused = w, nil
}

// throw says what becomes of a request.
func (c *cloud) throw(r *http.Request) (w weather, refused, lost, partial bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w = c.weather
	happens := func(share float64) bool { return c.random.Float64() < share }
	writes := r.Method != http.MethodGet && r.Method != http.MethodHead
	refused, lost, partial = happens(w.refused), writes && happens(w.lost), writes && happens(w.partial)
	if token := r.Header.Get("Authorization"); token != "" {
		c.tokens[strings.TrimPrefix(token, "Bearer ")] = true
	}
	if refused {
		c.refused = append(c.refused, time.Now())
	}
	return w, refused, lost, partial
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	weather, refused, lost, partial := c.throw(r)
	if weather.latency > 0 {
		select {
		case <-time.After(weather.latency):
		case <-r.Context().Done():
			return
		}
	}
	if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/upload/") && r.URL.Query().Get("ifGenerationMatch") != "0" {
		c.t.Errorf("an upload without condition: %v", r.URL)
	}
	switch {
	case r.URL.Path == "/token" && !refused: // not of Cloud Storage, but where its clients get what they come with
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"the-token-of-the-account","token_type":"Bearer","expires_in":3600}`)
	case weather.denied:
		http.Error(w, "not you", http.StatusUnauthorized)
	case refused:
		status := http.StatusServiceUnavailable
		if r.ContentLength%2 == 0 {
			status = http.StatusTooManyRequests
		}
		http.Error(w, "not now", status)
	case partial:
		_, _ = io.CopyN(io.Discard, r.Body, max(r.ContentLength, 0)/2)
		panic(http.ErrAbortHandler) // the connection is cut
	case lost:
		answer := httptest.NewRecorder()
		c.fake.HTTPHandler().ServeHTTP(answer, r)
		c.note(r, answer.Code)
		http.Error(w, "its answer is lost", http.StatusServiceUnavailable)
	default:
		answer := &watched{ResponseWriter: w}
		c.fake.HTTPHandler().ServeHTTP(answer, r)
		c.note(r, answer.status)
	}
}

// watched remembers the status of an answer.
type watched struct {
	http.ResponseWriter
	status int
}

func (w *watched) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// note counts the objects that come to be.
func (c *cloud) note(r *http.Request, status int) {
	if name := r.URL.Query().Get("name"); r.Method == http.MethodPost && name != "" && status < http.StatusMultipleChoices {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.created[name]++
	}
}

// names returns those of all objects that begin so.
func (c *cloud) names(prefix string) (names []string) {
	c.t.Helper()
	for page := ""; ; {
		got, err := c.fake.ListObjectsWithOptionsPaginated(bucket, fakestorage.ListOptions{Prefix: prefix, PageToken: page})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, o := range got.Objects {
			names = append(names, o.Name)
		}
		if page = got.NextPageToken; page == "" {
			return names
		}
	}
}

// copied returns a copy of the folder of the bucket that has a job's checkpoints.
func (c *cloud) copied(job string) *memstore.Store {
	c.t.Helper()
	folder, s := "lintel/"+job+"/", new(memstore.Store)
	for _, name := range c.names(folder) {
		got, err := c.fake.GetObject(bucket, name)
		if err == nil {
			err = s.Create(c.t.Context(), strings.TrimPrefix(name, folder), bytes.NewReader(got.Content))
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return s
}

// newest returns the newest epoch that has a manifest, 0 for none.
func (c *cloud) newest(job string) (epoch uint64) {
	c.t.Helper()
	for _, name := range c.names("lintel/" + job + "/manifest-") {
		var n uint64
		if _, err := fmt.Sscanf(path.Base(name), "manifest-%d", &n); err != nil {
			c.t.Fatal(err)
		}
		epoch = max(epoch, n)
	}
	return epoch
}

// checkComplete fails the test if a manifest names a file that is not there as it says.
func (c *cloud) checkComplete(job string) {
	c.t.Helper()
	s, named, files, manifests := c.copied(job), map[string]bool{}, 0, 0
	err := s.List(c.t.Context(), "", func(name string, _ int64) error {
		if strings.HasPrefix(name, "files/") {
			files++
		}
		if !strings.HasPrefix(name, "manifest-") {
			return nil
		}
		manifests++
		in, err := s.Open(c.t.Context(), name)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		m, err := protocol.DecodeManifest(data)
		if err != nil {
			return err
		}
		for _, f := range m.Files {
			named[f.Name()] = true
		}
		return checkpointing.Verify(c.t.Context(), s, m)
	})
	if err != nil || manifests == 0 {
		c.t.Errorf("a checkpoint of %d is not complete: %v", manifests, err)
	}
	c.t.Logf("%d checkpoints name %d files, %d more are there", manifests, len(named), files-len(named))
}

// checkRate fails the test if more than ten requests were refused in a second.
func (c *cloud) checkRate() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.refused)
	if n < 2 {
		c.t.Error("nothing was tried again")
		return
	}
	took := c.refused[n-1].Sub(c.refused[0])
	worst := 0
	for i := range c.refused {
		in := 0
		for ; i+in < n && c.refused[i+in].Sub(c.refused[i]) < time.Second; in++ {
		}
		worst = max(worst, in)
	}
	c.t.Logf("%d requests were refused in %v: %.1f a second, and %d at the most", n, took, float64(n)/took.Seconds(), worst)
	if worst > 10 {
		c.t.Errorf("%d requests were made in a second", worst)
	}
}

// checkCreated fails the test if an object came to be twice.
func (c *cloud) checkCreated() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	manifests := 0
	for name, n := range c.created {
		if n != 1 {
			c.t.Errorf("%s came to be %d times", name, n)
		}
		if strings.Contains(name, "/manifest-") {
			manifests++
		}
	}
	c.t.Logf("%d objects came to be, %d of them manifests", len(c.created), manifests)
}
