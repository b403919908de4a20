package docker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/registry"
)

// What images of Docker Hub are named by, and what its credentials are kept under.
const (
	hubDomain = "docker.io"
	hubKey    = "https://index.docker.io/v1/"
	// tokenUser is the user name of a credential helper's answer that is an identity token.
	tokenUser = "<token>"
)

// credentials is what the Docker command line's configuration file tells of them.
type credentials struct {
	Auths map[string]struct {
		Auth, IdentityToken string
	}
	CredsStore  string
	CredHelpers map[string]string
}

// registryAuth returns the header value by which the engine identifies itself to a registry, from
// where `docker login` keeps it: $DOCKER_CONFIG/config.json, ~/.docker/config.json by default, or
// the credential helper named there. It is empty if there is none.
func registryAuth(ctx context.Context, domain string) (string, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil // who has no home has no credentials in it
		}
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nil
	}
	var c credentials
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return "", fmt.Errorf("credentials of %s: %s: %w", domain, path, err)
	}
	found, err := c.find(ctx, domain)
	if err != nil {
		return "", fmt.Errorf("credentials of %s: %w", domain, err)
	}
	if found == (registry.AuthConfig{}) {
		return "", nil
	}
	return registry.EncodeAuthConfig(found)
}

func (c *credentials) find(ctx context.Context, domain string) (registry.AuthConfig, error) {
	key := domain
	if domain == hubDomain {
		key = hubKey
	}
	if helper := c.CredHelpers[domain]; helper != "" {
		return askHelper(ctx, helper, key)
	}
	if c.CredsStore != "" {
		if found, err := askHelper(ctx, c.CredsStore, key); err != nil || found != (registry.AuthConfig{}) {
			return found, err
		}
	}
	for at, a := range c.Auths {
		if hostOf(at) != hostOf(key) || a.Auth == "" && a.IdentityToken == "" {
			continue
		}
		pair, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return registry.AuthConfig{}, errors.New("they are not in base64") // and not for logs
		}
		user, password, _ := strings.Cut(string(pair), ":")
		return registry.AuthConfig{
			Username: user, Password: strings.TrimRight(password, "\x00"), IdentityToken: a.IdentityToken, ServerAddress: key,
		}, nil
	}
	return registry.AuthConfig{}, nil
}

// hostOf returns the host, with its port, of a registry's name or URL.
func hostOf(at string) string {
	if _, rest, ok := strings.Cut(at, "://"); ok {
		at = rest
	}
	host, _, _ := strings.Cut(at, "/")
	return host
}

// askHelper asks the program docker-credential-NAME by its protocol: the registry's key goes to its
// standard input, and an object comes from its standard output.
func askHelper(ctx context.Context, name, key string) (registry.AuthConfig, error) {
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(key)
	out, err := cmd.Output()
	if err != nil {
		if bytes.Contains(out, []byte("credentials not found")) {
			return registry.AuthConfig{}, nil
		}
		return registry.AuthConfig{}, fmt.Errorf("%s get: %w: %s", cmd.Args[0], err, bytes.TrimSpace(out))
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return registry.AuthConfig{}, fmt.Errorf("%s get: its answer is not the JSON it should be", cmd.Args[0])
	}
	if answer.Username == tokenUser {
		return registry.AuthConfig{IdentityToken: answer.Secret, ServerAddress: key}, nil
	}
	return registry.AuthConfig{Username: answer.Username, Password: answer.Secret, ServerAddress: key}, nil
}
