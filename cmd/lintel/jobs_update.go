package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// updateValues say how the state of one pipeline goes to another.
type updateValues struct {
	names *string
	drops *[]string
}

// updateFlags adds the flags that say so.
func updateFlags(cmd *cobra.Command) updateValues {
	return updateValues{
		names: cmd.Flags().String("transform-name-mapping", "", `JSON object of names that transforms, or composites, had to their new ones`),
		drops: cmd.Flags().StringArray("allow-dropped-state", nil, "transform, or TRANSFORM:STATE, whose state may be lost; may be repeated"),
	}
}

func (v updateValues) read() (protocol.Update, error) {
	u := protocol.Update{MayDrop: *v.drops}
	if *v.names != "" {
		if err := json.Unmarshal([]byte(*v.names), &u.Names); err != nil {
			return u, usageError(fmt.Errorf("--transform-name-mapping: want an object such as {\"Old/Name\": \"New/Name\"}: %w", err))
		}
	}
	return u, nil
}

// put adds the pipeline options that say the same.
func (v updateValues) put(o map[string]any) {
	if *v.names != "" {
		o[options.Key("transform_name_mapping")] = *v.names
	}
	if len(*v.drops) > 0 {
		drops := make([]any, len(*v.drops))
		for i, d := range *v.drops {
			drops[i] = d
		}
		o[options.Key("allow_dropped_state")] = drops
	}
}

func newJobsUpdate(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update JOB PIPELINE.pb",
		Short: "Replace a running job by another pipeline, which goes on with its state",
		Long: `Replace a running job by another pipeline, which goes on with its state, as a new job with the options of the old one.

If state would be lost or misread nothing is done, and all that stands in the way is printed: lintel jobs check-update tells
it beforehand. Else the job is stopped with a savepoint, and is UPDATED; the new one begins with that. The command waits until it runs.

PIPELINE.pb is as for lintel submit. The program of a pipeline does the same by the pipeline options update and job_name.`,
		Args:              exactly(cobra.ExactArgs(2)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	update, given := updateFlags(cmd), optionFlag(cmd)
	savepoint := cmd.Flags().String("savepoint", "", "URI of the savepoint's folder, file:///FOLDER or gs://BUCKET/FOLDER; by default the server chooses one")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := update.read(); err != nil {
			return err
		}
		p, err := readPipeline(args[1], cmd.InOrStdin())
		if err != nil {
			return err
		}
		return withClient(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			o, name, err := c.Options(ctx, args[0])
			if err != nil {
				return err
			}
			begin(o)
			if err := given.put(o); err != nil {
				return err
			}
			update.put(o)
			o[options.Key("update_job")], o[options.Key("update_savepoint")] = args[0], *savepoint
			id, err := c.Submit(ctx, jobclient.Submission{Name: name, Pipeline: p, Options: o})
			if err != nil {
				return err
			}
			if err := awaitRunning(ctx, c, id, cmd.ErrOrStderr()); err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					ID       string `json:"id"`
					Replaces string `json:"replaces"`
				}{id, args[0]})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s runs in place of %s\n", id, args[0])
			return err
		})
	}
	return cmd
}

// begin unsets those of a job's options that say what it began with.
func begin(o map[string]any) {
	for _, name := range []string{"restore_from", "transform_name_mapping", "allow_dropped_state"} {
		o[options.Key(name)] = ""
	}
	o[options.Key("update")] = false
}

// awaitRunning waits until a job that was submitted runs, or has ended, and prints what it says until then.
func awaitRunning(ctx context.Context, c *jobclient.Client, id string, news io.Writer) error {
	runs := errors.New("it runs")
	state, show := "", logPrinter(news, false, func() jobview.Level { return jobview.LevelInfo })
	err := c.FollowLogs(ctx, id, func(err error) { tellLost(news, err) }, func(e jobview.LogEntry) error {
		if e.State != "" {
			state = e.State
		}
		if e.State == "RUNNING" {
			return runs
		}
		return show(e)
	})
	if errors.Is(err, runs) {
		return nil
	}
	return errors.Join(err, ofState(id, state))
}
