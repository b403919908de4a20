package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// standing is how a check ended. The words are part of the output's format.
type standing string

const (
	standingOK      standing = "ok"
	standingWarning standing = "warning" // it works, but perhaps not well
	standingMissing standing = "missing" // something optional is not there
	standingFailed  standing = "failed"  // lintel dev can't run, or its jobs can't
)

// finding is what one check found.
type finding struct {
	Name   string   `json:"name"`
	Status standing `json:"status"`
	Found  string   `json:"found"`
	// Meaning is what it is for, or what it means that it is not there.
	Meaning string `json:"meaning,omitempty"`
	// Advice is how to get it.
	Advice string `json:"advice,omitempty"`
}

// doctor is what the checks are made for: the flags of lintel dev that they depend on.
type doctor struct {
	jobPort, httpPort int
	dataDir           string
	memory            size
}

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check that this machine has what lintel dev and the SDKs need",
		Long: `Check that this machine has what lintel dev needs: ports, a data directory, memory and
files; and what each SDK needs, which only its own pipelines miss. No server has to run.

It ends with 0 if lintel dev can run here, else with 1. It changes nothing.`,
		Args: exactly(cobra.NoArgs),
	}
	var d doctor
	fs := cmd.Flags()
	fs.IntVar(&d.jobPort, "job-port", defaultJobPort, "port of the Beam Job API")
	fs.IntVar(&d.httpPort, "http-port", defaultHTTPPort, "port of HTTP")
	fs.StringVar(&d.dataDir, "data-dir", defaultDataDir, "directory that lintel dev would keep its data in")
	fs.Var(&d.memory, "memory-budget", "memory that a job's data may take, such as 512M or 2G; 0 means the default")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		findings := d.examine(cmd.Context())
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		if err := report(cmd.OutOrStdout(), output.value, findings); err != nil {
			return err
		}
		return verdict(findings)
	}
	return cmd
}

// examine makes all checks side by side; their order in the result is always the same.
func (d *doctor) examine(ctx context.Context) []finding {
	checks := []func(context.Context) []finding{
		d.ports, d.dataDirectory, temporarySpace, openFiles, d.memoryLimit,
		goTool, python, java, maven, node, npm, dockerEngine,
	}
	found := make([][]finding, len(checks))
	var all sync.WaitGroup
	for i, check := range checks {
		all.Go(func() { found[i] = check(ctx) })
	}
	all.Wait()
	var findings []finding
	for _, f := range found {
		findings = append(findings, f...)
	}
	return findings
}

func report(w io.Writer, format string, findings []finding) error {
	if format == "json" {
		return printJSON(w, struct {
			OK     bool      `json:"ok"`
			Checks []finding `json:"checks"`
		}{verdict(findings) == nil, findings})
	}
	for _, f := range findings {
		text := f.Found
		if f.Meaning != "" {
			text += "; " + f.Meaning
		}
		fmt.Fprintf(w, "%-8s %-15s %s\n", f.Status, f.Name, oneLine(text))
		if f.Advice != "" {
			fmt.Fprintf(w, "%-8s %-15s %s\n", "", "", oneLine(f.Advice))
		}
	}
	return nil
}

// oneLine keeps what tools print from breaking the columns.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// verdict is the error of findings that leave lintel dev without something it needs.
func verdict(findings []finding) error {
	var failed []string
	for _, f := range findings {
		if f.Status == standingFailed {
			failed = append(failed, f.Name)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &exitError{exitFailure, errors.New("lintel dev cannot run here as it is: see " + strings.Join(failed, ", "))}
}
