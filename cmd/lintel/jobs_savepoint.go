package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
)

func newJobsSavepoint(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "savepoint",
		Short: "Take savepoints, look at them, check and delete them",
		Long: `Take savepoints of running jobs, and look at them, check and delete them where they lie: for that no server is asked. URI is
that of a folder, file:///FOLDER or gs://BUCKET/FOLDER.`,
		Args: subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSavepointCreate(endpoint), newSavepointList(), newSavepointInspect(), newSavepointVerify(), newSavepointDelete())
	return cmd
}

// savepoint is one that was opened.
type savepoint struct {
	store    folderStore
	manifest *protocol.Manifest
}

// withSavepoint calls do with the savepoint at a URI.
func withSavepoint(ctx context.Context, uri string, do func(*savepoint) error) error {
	return withFolder(ctx, uri, func(store folderStore) error {
		m, err := checkpointing.ReadSavepoint(ctx, store)
		if err != nil {
			return noSavepoint(uri, err)
		}
		return do(&savepoint{store, m})
	})
}

// withFolder calls do with the folder at a URI.
func withFolder(ctx context.Context, uri string, do func(folderStore) error) error {
	if _, err := parseStore(uri); err != nil {
		return usageError(err)
	}
	store, err := openExisting(ctx, uri)
	if err != nil {
		return noSavepoint(uri, err)
	}
	return errors.Join(do(store), store.Close())
}

// noSavepoint says where an error is.
func noSavepoint(uri string, err error) error {
	if errors.Is(err, checkpointing.ErrAbsent) {
		return &exitError{exitNotFound, fmt.Errorf("there is no savepoint at %s", uri)}
	}
	return fmt.Errorf("%s: %w", uri, err)
}

// savepointView is what is shown of a savepoint.
type savepointView struct {
	URI       string           `json:"uri"`
	Job       string           `json:"job"`
	Name      string           `json:"name"`
	Taken     time.Time        `json:"taken"`
	Epoch     uint64           `json:"epoch"`
	KeyGroups int              `json:"key_groups"`
	Files     int              `json:"files"`
	Bytes     int64            `json:"bytes"`
	Stages    []savepointStage `json:"stages,omitempty"`
	State     []savepointState `json:"state,omitempty"`
}

// savepointStage is what a savepoint has of a stage, in bytes by kind.
type savepointStage struct {
	Name  string           `json:"name"`
	Tasks int              `json:"tasks"`
	Ended int              `json:"ended,omitempty"`
	Bytes map[string]int64 `json:"bytes,omitempty"`
}

// savepointState is a transform that keeps something.
type savepointState struct {
	Transform string   `json:"transform"`
	URN       string   `json:"urn"`
	States    []string `json:"states,omitempty"`
	Timers    []string `json:"timers,omitempty"`
}

// viewSavepoint shows the head of a savepoint.
func viewSavepoint(uri string, m *protocol.Manifest) savepointView {
	total, _ := m.Bytes()
	return savepointView{
		URI: uri, Job: m.Job.ID, Name: m.Job.Name, Taken: time.UnixMilli(m.Taken).UTC(), Epoch: m.Epoch,
		KeyGroups: m.KeyGroups, Files: len(m.Files), Bytes: total,
	}
}

// details adds what is in it.
func (v *savepointView) details(m *protocol.Manifest) {
	for _, t := range m.Tasks {
		if n := len(v.Stages); n == 0 || v.Stages[n-1].Name != t.Stage {
			v.Stages = append(v.Stages, savepointStage{Name: t.Stage, Tasks: t.Of, Bytes: map[string]int64{}})
		}
		s := &v.Stages[len(v.Stages)-1]
		if t.Ended {
			s.Ended++
		}
		for _, p := range t.Parts {
			s.Bytes[p.Kind.String()] += p.Span.Length
		}
	}
	for _, t := range m.Pipeline.Transforms {
		if !t.Keeps {
			continue
		}
		s := savepointState{Transform: t.Name, URN: t.URN}
		for _, state := range t.States {
			s.States = append(s.States, state.ID)
		}
		for _, timer := range t.Timers {
			s.Timers = append(s.Timers, timer.Family)
		}
		v.State = append(v.State, s)
	}
}

func newSavepointList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list URI",
		Short: "List the savepoints in a folder and those below it",
		Args:  exactly(cobra.ExactArgs(1)),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withFolder(cmd.Context(), args[0], func(store folderStore) error {
			views, err := listSavepoints(cmd.Context(), store, args[0])
			if output.value == "json" {
				return errors.Join(err, printJSON(cmd.OutOrStdout(), views))
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TAKEN\tJOB\tBYTES\tURI")
			for _, v := range views {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", v.Taken.Format(time.RFC3339), v.Job, v.Bytes, v.URI)
			}
			return errors.Join(err, w.Flush())
		})
	}
	return cmd
}

// listSavepoints finds the savepoints of a folder. Those that can't be read are in the error.
func listSavepoints(ctx context.Context, store folderStore, uri string) ([]savepointView, error) {
	views := []savepointView{}
	var folders []string
	err := store.List(ctx, "", func(name string, _ int64) error {
		if dir, file := path.Split(name); file == protocol.SavepointManifest {
			folders = append(folders, strings.TrimSuffix(dir, "/"))
		}
		return nil
	})
	if err != nil {
		return views, err
	}
	var unreadable []error
	for _, dir := range folders {
		at, in := strings.TrimSuffix(uri, "/"), checkpointing.Store(store)
		if dir != "" {
			at += "/" + dir
			if in, err = checkpointing.Folder(store, dir); err != nil {
				return views, err
			}
		}
		m, err := checkpointing.ReadSavepoint(ctx, in)
		if err != nil {
			unreadable = append(unreadable, noSavepoint(at, err))
			continue
		}
		views = append(views, viewSavepoint(at, m))
	}
	return views, errors.Join(unreadable...)
}

func newSavepointInspect() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect URI",
		Short: "Show of which job a savepoint is, and what is in it",
		Args:  exactly(cobra.ExactArgs(1)),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withSavepoint(cmd.Context(), args[0], func(s *savepoint) error {
			v := viewSavepoint(args[0], s.manifest)
			v.details(s.manifest)
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), v)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), v.text())
			return err
		})
	}
	return cmd
}

// text writes the view for people.
func (v *savepointView) text() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s "+format+"\n", append([]any{name + ":"}, args...)...)
	}
	row("Job", "%s (%s)", v.Job, v.Name)
	row("Taken", "%s, epoch %d", v.Taken.Format(time.RFC3339), v.Epoch)
	row("Size", "%d bytes in %d files", v.Bytes, v.Files)
	row("Key groups", "%d", v.KeyGroups)
	b.WriteString("\nStages:\n")
	for _, s := range v.Stages {
		fmt.Fprintf(&b, "  %s, %d tasks", s.Name, s.Tasks)
		if s.Ended > 0 {
			fmt.Fprintf(&b, ", %d of them ended", s.Ended)
		}
		for _, kind := range slices.Sorted(maps.Keys(s.Bytes)) {
			fmt.Fprintf(&b, "\n    %-10s %d bytes", kind, s.Bytes[kind])
		}
		b.WriteString("\n")
	}
	b.WriteString("\nTransforms that keep something:\n")
	for _, s := range v.State {
		fmt.Fprintf(&b, "  %s (%s)\n", s.Transform, s.URN)
		if len(s.States) > 0 {
			fmt.Fprintf(&b, "    states %s\n", strings.Join(s.States, ", "))
		}
		if len(s.Timers) > 0 {
			fmt.Fprintf(&b, "    timers %s\n", strings.Join(s.Timers, ", "))
		}
	}
	return b.String()
}

func newSavepointVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify URI",
		Short: "Read all files of a savepoint and compare them with their checksums",
		Args:  exactly(cobra.ExactArgs(1)),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withSavepoint(cmd.Context(), args[0], func(s *savepoint) error {
			if err := checkpointing.Verify(cmd.Context(), s.store, s.manifest); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			total, _ := s.manifest.Bytes()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is whole: %d bytes in %d files\n", args[0], total, len(s.manifest.Files))
			return err
		})
	}
	return cmd
}

func newSavepointDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete URI",
		Short: "Delete a savepoint, and nothing else that is in its folder",
		Args:  exactly(cobra.ExactArgs(1)),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withFolder(cmd.Context(), args[0], func(store folderStore) error {
			if err := checkpointing.DeleteSavepoint(cmd.Context(), store); err != nil {
				return noSavepoint(args[0], err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is deleted\n", args[0])
			return err
		})
	}
	return cmd
}
