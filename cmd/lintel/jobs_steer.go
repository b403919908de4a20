package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
)

func newJobsCancel(endpoint *string) *cobra.Command {
	return newJobsSteer(endpoint, "cancel JOB", "Cancel a job; one that has ended stays as it is", "", (*jobclient.Client).Cancel)
}

func newJobsDrain(endpoint *string) *cobra.Command {
	return newJobsSteer(endpoint, "drain JOB", "End a running job without loss", `End a running job without loss: its sources stop, what they have read is
processed, windows close and timers fire. It is DRAINING until that is done, and
DRAINED then. A job that has ended stays as it is.`, (*jobclient.Client).Drain)
}

// newJobsSteer makes a command that does something to a job and tells its state after that.
func newJobsSteer(endpoint *string, use, short, long string, do func(*jobclient.Client, context.Context, string) (string, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:               use,
		Short:             short,
		Long:              long,
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ask(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			state, err := do(c, ctx, args[0])
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					ID    string `json:"id"`
					State string `json:"state"`
				}{args[0], state})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", args[0], state)
			return err
		})
	}
	return cmd
}
