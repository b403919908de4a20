// Package artifact moves the files that environments depend on from the client
// to SDK harnesses: a content-addressed store, the staging service that fetches
// from the client (ArtifactStagingService, at the job endpoint) and the retrieval
// service that harnesses read from (ArtifactRetrievalService, at the Fn API
// endpoint). Both are in beam_artifact_api.proto.
package artifact

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"

	"github.com/lintelrun/lintel/internal/fault"
)

// Config bounds what a client may stage. Zero values mean the defaults.
type Config struct {
	// Dir is the folder of the store; it is created if missing. Required.
	Dir string
	// MaxArtifactBytes is the largest artifact; 4 GiB by default.
	MaxArtifactBytes int64
	// MaxJobBytes is the most that all artifacts of a job may have together; 16 GiB by default.
	MaxJobBytes int64
	// MaxStoreBytes is the most that the artifacts of all jobs may have together;
	// 64 GiB by default.
	MaxStoreBytes int64
	// MaxArtifacts is the largest number of artifacts of a job; 10 000 by default.
	MaxArtifacts int
	// Logger receives what goes wrong without a caller to tell; discarded by default.
	Logger *slog.Logger
}

// Validate reports what is wrong with the configuration.
func (c Config) Validate() error {
	if c.Dir == "" {
		return errors.New("artifact: Config.Dir is required")
	}
	if c.MaxArtifactBytes < 0 || c.MaxJobBytes < 0 || c.MaxStoreBytes < 0 || c.MaxArtifacts < 0 {
		return errors.New("artifact: limits in Config must not be negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.MaxArtifactBytes == 0 {
		c.MaxArtifactBytes = 4 << 30
	}
	if c.MaxJobBytes == 0 {
		c.MaxJobBytes = 16 << 30
	}
	if c.MaxStoreBytes == 0 {
		c.MaxStoreBytes = 64 << 30
	}
	if c.MaxArtifacts == 0 {
		c.MaxArtifacts = 10_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Service stages and serves artifacts. A session, named by a staging token,
// holds the dependencies of one job's environments from Open until Release.
// All methods are safe for concurrent use.
type Service struct {
	jobpb.UnimplementedArtifactStagingServiceServer
	jobpb.UnimplementedArtifactRetrievalServiceServer

	cfg   Config
	store *Store

	mu       sync.Mutex
	sessions map[string]*session
}

// New opens the store under cfg.Dir.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	store, err := OpenStore(cfg.Dir, cfg.MaxStoreBytes)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, store: store, sessions: map[string]*session{}}, nil
}

// Close closes the store. No call may be running or follow.
func (s *Service) Close() error { return s.store.Close() }

// RegisterStaging adds the service that clients stage to: for the job endpoint.
func (s *Service) RegisterStaging(reg grpc.ServiceRegistrar) {
	jobpb.RegisterArtifactStagingServiceServer(reg, s)
}

// RegisterRetrieval adds the service that harnesses read from: for the Fn API endpoint.
func (s *Service) RegisterRetrieval(reg grpc.ServiceRegistrar) {
	jobpb.RegisterArtifactRetrievalServiceServer(reg, s)
}

// Open begins a session for the dependencies of the given environments, which
// the session reads but never changes, and returns its unguessable token.
// Artifacts that could do harm are refused with class fault.Invalid.
func (s *Service) Open(environments map[string]*pipepb.Environment) (token string, err error) {
	sess := &session{turn: make(chan struct{}, 1), deps: map[string][]*pipepb.ArtifactInformation{}}
	count := 0
	for _, id := range slices.Sorted(maps.Keys(environments)) {
		deps := environments[id].GetDependencies()
		if count += len(deps); count > s.cfg.MaxArtifacts {
			return "", fault.New(fault.Invalid, "environments have more than %d artifacts", s.cfg.MaxArtifacts)
		}
		for _, a := range deps {
			if _, err := stagedName(a); err != nil {
				return "", fmt.Errorf("environment %s: %w", clip(id), err)
			}
			if _, _, err := announced(a); err != nil {
				return "", fmt.Errorf("environment %s: %w", clip(id), err)
			}
		}
		if len(deps) > 0 {
			sess.environments = append(sess.environments, id)
			sess.deps[id] = deps
		}
	}
	token = newToken()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[token] = sess
	return token, nil
}

// Seal ends staging: it waits for a stream that is still at it, and later ones
// find nothing to do. What has not been staged by then stays as the pipeline has
// it. Unknown tokens are ignored; the error is ctx's.
func (s *Service) Seal(ctx context.Context, token string) error {
	sess := s.session(token)
	if sess == nil {
		return nil
	}
	if err := sess.acquire(ctx); err != nil {
		return fmt.Errorf("waiting for artifacts to be staged: %w", err)
	}
	defer sess.release()
	sess.mu.Lock()
	defer sess.mu.Unlock()
	sess.done = true
	return nil
}

// LastStaged returns when a stream of the session was last at it: now if one is,
// zero if none has been.
func (s *Service) LastStaged(token string) time.Time {
	sess := s.session(token)
	if sess == nil {
		return time.Time{}
	}
	if len(sess.turn) > 0 {
		return time.Now()
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	return sess.last
}

// Dependencies returns what a harness of the environment needs, for its
// ProvisionInfo: as staged if staging has succeeded, else as the pipeline has
// it. Nil for an unknown token or environment. The slice is the caller's, the
// messages are shared and must not be changed.
func (s *Service) Dependencies(token, environment string) []*pipepb.ArtifactInformation {
	sess := s.session(token)
	if sess == nil {
		return nil
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	return slices.Clone(sess.deps[environment])
}

// Staged is what a session holds, for a job that outlives the process.
type Staged struct {
	Token        string
	Dependencies map[string][]*pipepb.ArtifactInformation
	// Blobs are the SHA-256 of the files that they need, one for each time.
	Blobs []string
}

// Staged returns what a sealed session holds, with all files on the disk; its messages are shared and
// must not be changed. Of an unknown token it is zero.
func (s *Service) Staged(token string) (Staged, error) {
	sess := s.session(token)
	if sess == nil {
		return Staged{}, nil
	}
	sess.mu.Lock()
	st := Staged{Token: token, Dependencies: maps.Clone(sess.deps), Blobs: slices.Clone(sess.held)}
	sess.mu.Unlock()
	return st, s.store.Sync(st.Blobs)
}

// Restore opens a session again that an earlier process had, before Sweep. The error is of class
// fault.Corruption if a file of it is gone.
func (s *Service) Restore(st Staged) error {
	sess := &session{turn: make(chan struct{}, 1), deps: st.Dependencies, done: true}
	for _, sum := range st.Blobs {
		if _, ok := s.store.Retain(sum); !ok {
			s.drop(sess.held)
			return fault.New(fault.Corruption, "the staged file with SHA-256 %s is gone", sum)
		}
		sess.held = append(sess.held, sum)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[st.Token] = sess
	return nil
}

// Sweep removes the files of earlier processes that no session was restored for.
func (s *Service) Sweep() error { return s.store.Sweep() }

// Release ends a session and drops artifacts that no other session needs.
// Unknown tokens are ignored.
func (s *Service) Release(token string) {
	s.mu.Lock()
	sess := s.sessions[token]
	delete(s.sessions, token)
	s.mu.Unlock()
	if sess == nil {
		return
	}
	sess.mu.Lock()
	sess.done, sess.released = true, true
	held := sess.held
	sess.held = nil
	sess.mu.Unlock()
	s.drop(held)
}

func (s *Service) session(token string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[token]
}

func (s *Service) drop(sums []string) {
	for _, sum := range sums {
		if err := s.store.Release(sum); err != nil {
			s.cfg.Logger.Error("artifact not removed", "sha256", sum, "error", err)
		}
	}
}

// session holds the artifacts of one job.
type session struct {
	// turn is held by the one stream that stages.
	turn chan struct{}
	// environments with dependencies, sorted. Immutable.
	environments []string

	mu       sync.Mutex
	last     time.Time // when a stream has ended
	done     bool      // staged, or sealed without
	released bool
	deps     map[string][]*pipepb.ArtifactInformation
	held     []string // one store reference each
}

func (s *session) acquire(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) release() { <-s.turn }

func (s *session) touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
}

func (s *session) isDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// finish records what one stream has staged; false if the session has ended meanwhile.
func (s *session) finish(deps map[string][]*pipepb.ArtifactInformation, held []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return false
	}
	s.done, s.deps, s.held = true, deps, held
	return true
}

func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
