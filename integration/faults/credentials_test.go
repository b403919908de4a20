package faults

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// pemOf returns the PEM block of a key or certificate.
func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// identity makes a private key and a certificate of it for some hosts, signed by itself.
func identity(t *testing.T, hosts ...string) (key, certificate []byte) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: hosts, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("PRIVATE KEY", keyDER), pemOf("CERTIFICATE", der)
}

// tunnel is an HTTP proxy that connects whoever asks, for whatever host, to one address.
func tunnel(t *testing.T, address string) *httptest.Server {
	t.Helper()
	var open sync.WaitGroup
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		to, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		for _, ends := range [][2]net.Conn{{from, to}, {to, from}} {
			open.Go(func() {
				_, _ = io.Copy(ends[0], ends[1])
				ends[0].Close()
			})
		}
	}))
	t.Cleanup(func() {
		p.Close()
		open.Wait()
	})
	return p
}

// Checkpoints go to the real address of Cloud Storage, which is ours here, with a service account's key. In all that goes wrong neither that nor
// the token that it gets, nor the address of an upload, which lets its bearer write, comes into a log, a record, a metric or an answer.
func TestCredentialsStaySecret(t *testing.T) {
	const host, tokens = "storage.googleapis.com", "oauth2.googleapis.com"
	c := newCloud(t, seeded(t), host)
	key, certificate := identity(t, host, tokens)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	c.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	c.server.StartTLS()
	proxy := tunnel(t, c.server.Listener.Addr().String())

	account, _ := identity(t)
	dir := t.TempDir()
	secrets := filepath.Join(t.TempDir(), "account.json")
	authority := filepath.Join(t.TempDir(), "authority.pem")
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": "the-id-of-the-key", "private_key": string(account),
		"client_email": "lintel@p.iam.gserviceaccount.com", "token_uri": "https://" + tokens + "/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{secrets: content, authority: certificate} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"GOOGLE_APPLICATION_CREDENTIALS=" + secrets, "SSL_CERT_FILE=" + authority, "HTTPS_PROXY=" + proxy.URL, "https_proxy=" + proxy.URL}
	s := launch(t, lintelBinary(t), dir, env, "--checkpoint-dir", "gs://"+bucket+"/lintel", "--log-level", "debug")
	s.awaitReady()
	s.submitExact(120, filepath.Join(dir, "observed"), "--every", slowEvery.String())
	job, _ := s.job()
	testkit.Eventually(t, time.Minute, "a checkpoint", func() bool { return c.newest(job) > 0 })
	c.set(weather{refused: 0.2, lost: 0.2, partial: 0.2})
	time.Sleep(2 * time.Second)
	c.set(weather{denied: true})
	testkit.Eventually(t, time.Minute, "the job's log tells of checkpoints that fail", func() bool { return strings.Contains(s.onlyLog(), "401") })
	c.set(weather{})
	s.awaitExact(120 * slowEvery)

	c.mu.Lock()
	hidden := []string{"the-id-of-the-key", "upload_id="}
	for token := range c.tokens {
		hidden = append(hidden, token)
	}
	c.mu.Unlock()
	if len(hidden) < 3 {
		t.Fatal("no request came with a token")
	}
	for line := range strings.Lines(string(account)) {
		hidden = append(hidden, strings.TrimSpace(line))
	}
	told := map[string][]byte{"the job's log": []byte(s.onlyLog()), "the metrics": s.page("/metrics"), "its checkpoints": s.page("/v1/jobs/" + job + "/checkpoints")}
	for _, from := range []string{s.log.Name(), filepath.Join(dir, "data")} {
		err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				told[path], err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, said := range told {
		for _, secret := range hidden {
			if bytes.Contains(said, []byte(secret)) {
				t.Errorf("%s has %q", what, secret)
			}
		}
	}
	t.Logf("%d secrets were looked for in %d places", len(hidden), len(told))
}
