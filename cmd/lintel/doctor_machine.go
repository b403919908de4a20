package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/lintelrun/lintel/web/jobclient"
)

const (
	portTimeout = 2 * time.Second // for what holds a port to say what it is

	leastFree   = 256 << 20 // bytes that a server can begin with
	usefulFree  = 2 << 30   // bytes below which jobs that spill may fail
	leastFiles  = 256       // open files: a server and a few workers
	usefulFiles = 4096      // that jobs with many tasks, which spill, may have open
)

// ports says who holds the server's ports. A server that runs already is as good as free ports.
func (d *doctor) ports(ctx context.Context) []finding {
	job := finding{Name: "job port", Meaning: "SDKs submit jobs there", Advice: portAdvice("job")}
	web := finding{Name: "HTTP port", Meaning: "people and Prometheus look at the server there", Advice: portAdvice("http")}
	var running bool
	web.Status, web.Found, running = httpHolder(ctx, d.httpPort)
	if job.Status, job.Found = free(d.jobPort); job.Status == standingFailed {
		switch answers := beamJobs(ctx, d.jobPort); {
		case answers && running:
			job.Status, job.Found = standingOK, job.Found+" by the Job API of that server"
		case answers:
			job.Found += " by a Beam job server; no lintel answers at the HTTP port"
		default:
			job.Found += " by something that is no Beam job server"
		}
	}
	for _, f := range []*finding{&job, &web} {
		if f.Status == standingOK {
			f.Advice = ""
		}
	}
	return []finding{web, job}
}

func portAdvice(flag string) string {
	return fmt.Sprintf("stop what holds it, or choose another by lintel dev --%s-port (0 takes any free one)", flag)
}

// free tries whether a server could listen on a port.
func free(port int) (standing, string) {
	at := local(port)
	l, err := net.Listen("tcp", at)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return standingFailed, at + " is held"
	case err != nil:
		return standingFailed, fmt.Sprintf("%s cannot be used: %v", at, err)
	}
	l.Close()
	return standingOK, at + " is free"
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// httpHolder is free for a port that a lintel may serve HTTP on.
func httpHolder(ctx context.Context, port int) (s standing, found string, lintel bool) {
	s, found = free(port)
	if s == standingOK {
		return s, found, false
	}
	b, ok := runningBuild(ctx, port)
	if !ok {
		return s, found + " by something that is no lintel", false
	}
	return standingOK, found + " by lintel " + b.Version, true
}

// runningBuild asks what listens on a port for the version of lintel that it is.
func runningBuild(ctx context.Context, port int) (b build, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, portTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(port)+"/v1/version", nil)
	if err != nil {
		return b, false
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: it is on this machine
	resp, err := client.Do(req)
	if err != nil {
		return b, false
	}
	defer resp.Body.Close()
	err = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&b)
	return b, err == nil && resp.StatusCode == http.StatusOK && b.Version != "" && b.Go != "" && b.Platform != ""
}

// beamJobs tells whether a port answers as a Beam job server does.
func beamJobs(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, portTimeout)
	defer cancel()
	return withClient(ctx, local(port), func(ctx context.Context, c *jobclient.Client) error {
		_, err := c.List(ctx)
		return err
	}) == nil
}

// dataDirectory writes to where the data directory is or would be made.
func (d *doctor) dataDirectory(context.Context) []finding {
	f := finding{Name: "data directory", Meaning: "job records, artifacts and spilled data go there"}
	path, err := filepath.Abs(d.dataDir)
	if err == nil {
		f.spaceAt(path, "choose another by lintel dev --data-dir, or make room")
	} else {
		f.Status, f.Found = standingFailed, err.Error()
	}
	return []finding{f}
}

func temporarySpace(context.Context) []finding {
	f := finding{Name: "temporary space", Meaning: "SDKs and workers unpack and build there"}
	f.spaceAt(os.TempDir(), "set TMPDIR to another directory, or make room")
	return []finding{f}
}

// spaceAt fills in a finding about a directory.
func (f *finding) spaceAt(path, advice string) {
	at, err := existing(path)
	if err == nil {
		err = probe(at)
	}
	var disk syscall.Statfs_t
	if err == nil {
		err = syscall.Statfs(at, &disk)
	}
	if err != nil {
		f.Status, f.Found, f.Advice = standingFailed, err.Error(), advice
		return
	}
	bytes := uint64(disk.Bavail) * uint64(disk.Bsize) //nolint:unconvert // their types differ by system
	f.Status = enough(bytes, leastFree, usefulFree)
	f.Found = fmt.Sprintf("%s is writable and has %s free", at, mebibytes(bytes))
	if at != path {
		f.Found = fmt.Sprintf("%s does not exist yet; %s", path, f.Found)
	}
	if f.Status != standingOK {
		f.Advice = fmt.Sprintf("%s: %s is little", advice, mebibytes(bytes))
	}
}

// existing is the path, or the directory above it that is there.
func existing(path string) (string, error) {
	for {
		info, err := os.Stat(path)
		switch {
		case err == nil && !info.IsDir():
			return "", fmt.Errorf("%s is no directory", path)
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path:
			return "", err
		}
		path = filepath.Dir(path)
	}
}

// probe writes a file to the disk and removes it.
func probe(dir string) (err error) {
	file, err := os.CreateTemp(dir, ".lintel-doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	if _, err := file.WriteString("lintel doctor\n"); err != nil {
		return err
	}
	return file.Sync()
}

func openFiles(context.Context) []finding {
	f := finding{Name: "open files", Meaning: "each connection and each spilled file takes one"}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		f.Status, f.Found = standingFailed, err.Error()
		return []finding{f}
	}
	n := uint64(limit.Cur) //nolint:unconvert // its type differs by system
	f.Status = enough(n, leastFiles, usefulFiles)
	f.Found = fmt.Sprintf("at most %d", n)
	if n > 1<<40 {
		f.Found = "no limit"
	}
	if f.Status != standingOK {
		f.Advice = fmt.Sprintf("raise the limit to %d or more, by ulimit -n or LimitNOFILE of the service", usefulFiles)
	}
	return []finding{f}
}

func enough(n, least, useful uint64) standing {
	switch {
	case n < least:
		return standingFailed
	case n < useful:
		return standingWarning
	}
	return standingOK
}

// mebibytes rounds down to something readable.
func mebibytes(n uint64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%d GiB", n>>30)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
