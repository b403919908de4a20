package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// addresses is what a ready file holds.
type addresses struct {
	JobEndpoint string `json:"jobEndpoint"`
	HTTP        string `json:"http"`
	PID         int    `json:"pid"`
}

// announce tells people, on out, and scripts, by the ready file, that the server takes jobs.
func (f *devFlags) announce(s *server, out io.Writer) error {
	if f.readyFile != "" {
		b, err := json.Marshal(addresses{s.jobAddress, "http://" + s.httpAddress, os.Getpid()})
		if err != nil {
			return err
		}
		// Renamed, so that nobody reads half of it.
		if err := os.WriteFile(f.readyFile+".tmp", append(b, '\n'), 0o644); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
		if err := os.Rename(f.readyFile+".tmp", f.readyFile); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
	}
	_, err := io.WriteString(out, f.banner(s))
	return err
}

func (f *devFlags) banner(s *server) string {
	reach := "to this machine only, without authentication"
	if !isLoopback(f.bind) {
		reach = "TO THE NETWORK, WITHOUT AUTHENTICATION"
	}
	data, err := filepath.Abs(f.dataDir)
	if err != nil {
		data = f.dataDir
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Lintel %s, open %s.\n\n", readBuild().Version, reach)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-11s "+format+"\n", append([]any{name}, args...)...)
	}
	row("Jobs", "%s  (Beam Job API)", s.jobAddress)
	row("HTTP", "http://%s  (/v1/jobs, /metrics, /healthz, /readyz)", s.httpAddress)
	row("Data", "%s", data)
	endpoint := ""
	if s.jobAddress != "127.0.0.1:8099" {
		endpoint = " --endpoint=" + s.jobAddress
	}
	row("Logs", "here; a job's: lintel jobs logs%s JOB", endpoint)
	b.WriteString("\nSubmit a pipeline:\n\n")
	for _, k := range sdks {
		row(k.title, "%s", k.example(s.jobAddress))
	}
	row("any", "lintel run%s -- python my_pipeline.py", endpoint)
	b.WriteString("\nCtrl-C stops it.\nready\n")
	return b.String()
}
