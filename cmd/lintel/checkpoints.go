package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/filestore"
	"github.com/lintelrun/lintel/checkpointing/gcsstore"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/runner/worker"
)

// checkpointConfig is where a server keeps checkpoints.
type checkpointConfig struct {
	uri string // of the folder, "": in the data directory
	// savepoints are the URIs of the folders below which savepoints may be.
	savepoints []string
	// rate is how many bytes a second all checkpoints together may upload; 0 is no bound.
	rate size
}

// checkpointFlags adds the flags of checkpoints.
func checkpointFlags(fs *pflag.FlagSet) *checkpointConfig {
	c := &checkpointConfig{}
	fs.StringVar(&c.uri, "checkpoint-dir", "", "where checkpoints of jobs go: file:///FOLDER or gs://BUCKET/FOLDER; by default the folder checkpoints of the data directory")
	fs.StringArrayVar(&c.savepoints, "savepoint-dir", nil, "folder below which savepoints may be read and written, as for --checkpoint-dir, beside savepoints of the data directory; may be repeated. They go to the first unless told otherwise")
	fs.Var(&c.rate, "checkpoint-upload-rate", "bytes a second that checkpoints of all jobs together may upload, such as 50M; 0 is no bound")
	return c
}

// check says what is wrong with the flags.
func (c *checkpointConfig) check() error {
	if c.uri != "" {
		if _, err := parseStore(c.uri); err != nil {
			return fmt.Errorf("--checkpoint-dir %w", err)
		}
	}
	for _, uri := range c.savepoints {
		if _, err := parseStore(uri); err != nil {
			return fmt.Errorf("--savepoint-dir %w", err)
		}
	}
	return nil
}

// folderStore is a folder of objects, to be closed.
type folderStore interface {
	checkpointing.Store
	io.Closer
}

// uploads is what the worker is told.
func (c *checkpointConfig) uploads() worker.Uploads {
	return worker.Uploads{BytesPerSecond: int(c.rate)}
}

// open opens the store of a server.
func (c *checkpointConfig) open(dataDir string) (folderStore, error) {
	if c.uri == "" {
		return openFolder(filepath.Join(dataDir, "checkpoints"))
	}
	return openStore(context.Background(), c.uri)
}

// coordinator is what the coordinator is told of a store that was opened. Files of savepoints go by way of dir.
func (c *checkpointConfig) coordinator(store folderStore, savepoints savepointFolders, dir string) *coordinator.Checkpoints {
	return &coordinator.Checkpoints{Store: store, Dir: dir, Savepoints: savepoints.open}
}

// savepointFolders are the URIs of the folders below which savepoints may be; by default they go to the first.
type savepointFolders []string

// folders returns those of the flags and that of the data directory.
func (c *checkpointConfig) folders(dataDir string) (savepointFolders, error) {
	dir, err := filepath.Abs(filepath.Join(dataDir, "savepoints"))
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(c.savepoints), (&url.URL{Scheme: "file", Path: dir}).String()), nil
}

// place returns where a savepoint of a job goes for which a URI was given, or "": a fault.Invalid if it can't go there.
func (f savepointFolders) place(job, uri string, now time.Time) (string, error) {
	if uri == "" {
		return strings.TrimSuffix(f[0], "/") + "/" + job + "/" + now.UTC().Format("20060102T150405.000Z"), nil
	}
	return uri, f.check(uri)
}

func (f savepointFolders) check(uri string) error {
	s, err := parseStore(uri)
	if err != nil {
		return err
	}
	for _, folder := range f {
		if within, err := parseStore(folder); err == nil && s.below(within) {
			return nil
		}
	}
	return fault.New(fault.Invalid, "savepoint %s is not below a folder that the server has for savepoints: %s (--savepoint-dir)", uri, strings.Join(f, ", "))
}

// open implements coordinator.Checkpoints.Savepoints.
func (f savepointFolders) open(ctx context.Context, uri string) (coordinator.SavepointStore, error) {
	if err := f.check(uri); err != nil {
		return nil, err
	}
	return openStore(ctx, uri)
}

// storeURI is the parsed URI of a folder.
type storeURI struct{ scheme, bucket, path string }

// below tells whether s is a folder in another.
func (s storeURI) below(other storeURI) bool {
	rest, ok := strings.CutPrefix(s.path, strings.TrimSuffix(other.path, "/"))
	return ok && s.scheme == other.scheme && s.bucket == other.bucket && strings.Trim(rest, "/") != "" && (other.path == "" || rest[0] == '/')
}

// parseStore reads file:///FOLDER and gs://BUCKET/FOLDER. Errors are of class fault.Invalid.
func parseStore(uri string) (storeURI, error) {
	u, err := url.Parse(uri)
	switch {
	case err != nil:
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Port() != "":
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && filepath.IsAbs(u.Path):
		return storeURI{scheme: u.Scheme, path: filepath.Clean(u.Path)}, nil
	case u.Scheme == "gs" && u.Host != "":
		s := storeURI{scheme: u.Scheme, bucket: u.Host, path: strings.Trim(u.Path, "/")}
		if s.path == "" || checkpointing.CheckName(s.path) == nil {
			return s, nil
		}
	}
	return storeURI{}, fault.New(fault.Invalid, "%q: want the URI of a folder, file:///FOLDER or gs://BUCKET/FOLDER", uri)
}

// openStore opens a folder; it has a line for each kind of store. A folder on disk is made if it isn't there.
func openStore(ctx context.Context, uri string) (folderStore, error) {
	s, err := parseStore(uri)
	if err != nil {
		return nil, err
	}
	if s.scheme == "file" {
		return openFolder(s.path)
	}
	bucket, err := gcsstore.New(ctx, gcsstore.Config{Bucket: s.bucket, Prefix: s.path})
	if err != nil {
		return nil, err
	}
	return bucket, nil
}

func openFolder(dir string) (folderStore, error) {
	folder, err := filestore.New(dir)
	if err != nil {
		return nil, err
	}
	return folder, nil
}

// openExisting is openStore, but a folder on disk has to be there.
func openExisting(ctx context.Context, uri string) (folderStore, error) {
	s, err := parseStore(uri)
	if err != nil {
		return nil, err
	}
	if s.scheme == "file" {
		if info, err := os.Stat(s.path); err != nil || !info.IsDir() {
			return nil, errors.Join(fmt.Errorf("%s: %w", uri, checkpointing.ErrAbsent), err)
		}
	}
	return openStore(ctx, uri)
}
