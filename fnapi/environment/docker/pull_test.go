package docker

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
)

// Media types of a registry's answers.
const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// fakeRegistry has one image, named worker:1, of the suite's worker.
type fakeRegistry struct {
	*httptest.Server
	user, password string                  // empty: anybody may pull
	pulls          atomic.Int64            // of the manifest
	content        map[string]registryFile // by path
}

type registryFile struct {
	contentType string
	data        []byte
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func newRegistry(t *testing.T, user, password string) *fakeRegistry {
	t.Helper()
	path, err := workerBinary()
	if err != nil {
		t.Fatal(err)
	}
	var layer, packed bytes.Buffer
	if err := (dockertest.Image{Files: map[string]string{"/worker": path}}).Write(&layer); err != nil {
		t.Fatal(err)
	}
	gz, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	gz.Write(layer.Bytes())
	gz.Close()
	config := marshal(t, map[string]any{
		"architecture": runtime.GOARCH, "os": runtime.GOOS,
		"config": map[string]any{"Entrypoint": []string{"/worker"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}},
	})
	blob := func(mediaType string, data []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "size": len(data), "digest": digest(data)}
	}
	manifest := marshal(t, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": blob(configType, config), "layers": []any{blob(layerType, packed.Bytes())},
	})
	r := &fakeRegistry{user: user, password: password, content: map[string]registryFile{
		"/v2/":                   {"application/json", []byte("{}")},
		"/v2/worker/manifests/1": {manifestType, manifest},
		"/v2/worker/manifests/" + digest(manifest): {manifestType, manifest},
	}}
	for _, data := range [][]byte{config, packed.Bytes()} {
		r.content["/v2/worker/blobs/"+digest(data)] = registryFile{"application/octet-stream", data}
	}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *fakeRegistry) host() string { return strings.TrimPrefix(r.URL, "http://") }

// ServeHTTP implements http.Handler by what pulling needs of the registry protocol.
func (r *fakeRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if user, password, _ := req.BasicAuth(); r.user != "" && (user != r.user || password != r.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	file, ok := r.content[req.URL.Path]
	if !ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"2"}}]}`)
		return
	}
	if strings.Contains(req.URL.Path, "/manifests/") {
		r.pulls.Add(1)
	}
	w.Header().Set("Content-Type", file.contentType)
	w.Header().Set("Docker-Content-Digest", digest(file.data))
	w.Header().Set("Content-Length", fmt.Sprint(len(file.data)))
	w.Write(file.data)
}

func TestPullPolicies(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	for policy, pulledAgain := range map[PullPolicy]bool{PullIfMissing: false, PullAlways: true} {
		t.Run(string(policy), func(t *testing.T) {
			r := newRegistry(t, "", "")
			l := newLauncher(t, Config{Pull: policy, Env: map[string]string{"DOCKER_TEST_SHOW": "/"}})
			run := func() (said string) {
				var lines []string
				w := launch(t, l, environment.Request{
					WorkerID: "w", Environment: environmentOf(r.host() + "/worker:1"), Output: func(line string) { lines = append(lines, line) },
				})
				awaitDone(t, w)
				stop(t, w)
				return strings.Join(lines, "\n")
			}
			said := run()
			pulls := r.pulls.Load()
			if pulls == 0 || !strings.HasPrefix(said, "pulling the image "+r.host()+"/worker:1\n") || !strings.Contains(said, "DOCKER_TEST_SHOW=/") {
				t.Errorf("%d requests of the manifest, and the worker printed\n%s", pulls, said)
			}
			if said := run(); strings.Contains(said, "pulling") {
				t.Errorf("a pull is told of though the image was there:\n%s", said)
			}
			if again := r.pulls.Load() > pulls; again != pulledAgain {
				t.Errorf("the second worker's image was pulled: %v; want %v", again, pulledAgain)
			}
		})
	}
}

func TestPullOfAnUnknownImage(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	image := newRegistry(t, "", "").host() + "/worker:2"
	_, err := newLauncher(t, Config{}).Launch(t.Context(), environment.Request{WorkerID: "w", Environment: environmentOf(image)})
	if fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), image) || !strings.Contains(err.Error(), "pull failed") {
		t.Errorf("Launch: %v (class %v); want class %v with the image and the reason", err, fault.ClassOf(err), fault.Invalid)
	}
}

func TestPullWithCredentials(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	const user, password = "robot", "hush:hush"
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for name, c := range map[string]struct {
		config string // HOST stands for the registry
		helper string // a script
		holds  string // of the error, empty for success
	}{
		"none":               {"", "", "pull failed"},
		"none for it":        {`{"auths": {"elsewhere": {"auth": "eDp5"}}}`, "", "pull failed"},
		"wrong":              {`{"auths": {"HOST": {"auth": "eDp5"}}}`, "", "pull failed"},
		"in the file":        {`{"auths": {"HOST": {"auth": "` + auth + `"}}}`, "", ""},
		"in the file by URL": {`{"auths": {"http://HOST/v1/": {"auth": "` + auth + `"}}}`, "", ""},
		"in a broken file":   {`{"auths": "hush"}`, "", "config.json"},
		"not in base64":      {`{"auths": {"HOST": {"auth": "hush!"}}}`, "", "not in base64"},
		"in the store":       {`{"credsStore": "test"}`, `read -r host; echo '{"Username": "` + user + `", "Secret": "` + password + `"}'`, ""},
		"of the registry":    {`{"credsStore": "none", "credHelpers": {"HOST": "test"}}`, `[ "$1" = get ] && echo '{"Username": "` + user + `", "Secret": "` + password + `"}'`, ""},
		"not in the store":   {`{"credsStore": "test", "auths": {"HOST": {"auth": "` + auth + `"}}}`, `echo "credentials not found in native keychain"; exit 1`, ""},
		"store that fails":   {`{"credsStore": "test"}`, `echo "the keychain is locked"; exit 1`, "the keychain is locked"},
		"store that is gone": {`{"credsStore": "gone"}`, "", "docker-credential-gone"},
		"store that babbles": {`{"credsStore": "test"}`, `echo hush`, "not the JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, user, password)
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			write := func(name, text string, mode os.FileMode) {
				if text == "" {
					return
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "HOST", r.host())), mode); err != nil {
					t.Fatal(err)
				}
			}
			write("config.json", c.config, 0o600)
			if c.helper != "" {
				write("docker-credential-test", "#!/bin/sh\n"+c.helper+"\n", 0o700)
			}
			l := newLauncher(t, Config{Env: map[string]string{"DOCKER_TEST_SHOW": "/"}})
			w, err := l.Launch(t.Context(), environment.Request{WorkerID: "w", Environment: environmentOf(r.host() + "/worker:1")})
			if (err == nil) != (c.holds == "") || err != nil && !strings.Contains(err.Error(), c.holds) {
				t.Errorf("Launch: %v; want an error with %q, or none if that is empty", err, c.holds)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("the error tells a secret: %v", err)
			}
			if err == nil {
				awaitDone(t, w)
				stop(t, w)
			}
		})
	}
}
