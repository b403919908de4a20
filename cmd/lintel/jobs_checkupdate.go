package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/web/jobclient"
)

func newJobsCheckUpdate(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check-update JOB|SAVEPOINT PIPELINE.pb",
		Short: "Tell what would become of a job's state if it went on as another pipeline",
		Long: `Tell what would become of each transform's state if a job, or what a savepoint was taken of, went
on as another pipeline. Nothing is changed.

JOB is the id of a job of the server, SAVEPOINT the URI of a savepoint. PIPELINE.pb is a Pipeline message
of beam_runner_api.proto, binary or as JSON; "-" reads standard input. The flags are the
pipeline options of the same names. The exit code is 1 if state would be lost or misread.`,
		Args: exactly(cobra.ExactArgs(2)),
	}
	flags := updateFlags(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		u, err := flags.read()
		if err != nil {
			return err
		}
		p, err := readPipeline(args[1], cmd.InOrStdin())
		if err != nil {
			return err
		}
		to, err := describePipeline(cmd.Context(), p)
		if err != nil {
			return err
		}
		from, err := describedBy(cmd.Context(), *endpoint, args[0])
		if err != nil {
			return err
		}
		found, err := protocol.Compare(from, to, u)
		if err != nil {
			return err
		}
		return tellUpdate(cmd.OutOrStdout(), found, output.value)
	}
	return cmd
}

// describedBy returns what an update of a job, or of the job of a savepoint, is checked against.
func describedBy(ctx context.Context, endpoint, what string) (from protocol.Pipeline, err error) {
	if strings.Contains(what, "://") {
		err := withSavepoint(ctx, what, func(s *savepoint) error {
			from = s.manifest.Pipeline
			return nil
		})
		return from, err
	}
	var p *pipepb.Pipeline
	err = ask(ctx, endpoint, func(ctx context.Context, c *jobclient.Client) (err error) {
		p, err = c.Pipeline(ctx, what)
		return err
	})
	if err != nil {
		return from, err
	}
	return describePipeline(ctx, p)
}

// describePipeline returns what checkpoints of a job with the pipeline say of it.
func describePipeline(ctx context.Context, p *pipepb.Pipeline) (protocol.Pipeline, error) {
	made, err := portable.Compile(ctx, p, portable.Options{Checkpoints: true})
	if err != nil {
		return protocol.Pipeline{}, err
	}
	return coordinator.Describe(made), nil
}

// findingView is a protocol.Finding as JSON.
type findingView struct {
	Transform string `json:"transform"`
	Was       string `json:"was,omitempty"`
	Verdict   string `json:"verdict"`
	Detail    string `json:"detail,omitempty"`
	Blocks    bool   `json:"blocks"`
}

// tellUpdate prints findings; it is an error if any of them stands in the way.
func tellUpdate(out io.Writer, found []protocol.Finding, format string) error {
	views := []findingView{}
	var lines strings.Builder
	for _, f := range found {
		views = append(views, findingView{f.Transform, f.Was, f.Verdict.String(), f.Detail, f.Blocks})
		fmt.Fprintln(&lines, f)
	}
	blocked := protocol.Blocked(found)
	var err error
	if format == "json" {
		err = printJSON(out, views)
	} else {
		_, err = io.WriteString(out, lines.String())
	}
	if len(blocked) > 0 {
		err = errors.Join(err, fmt.Errorf("the update would lose or misread state: %d findings stand in its way", len(blocked)))
	}
	return err
}
