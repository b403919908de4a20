package main

import (
	"cmp"
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobcontrol"
	"github.com/lintelrun/lintel/web/jobview"
)

func newJobsCheckpoints(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoints JOB",
		Short: "List a job's newest checkpoints and savepoints, those that failed included",
		Long: `List a job's newest checkpoints and savepoints, oldest first: how long each took, how many bytes it has
and how many of them were new, and why it failed.`,
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ask(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			list, err := c.Checkpoints(ctx, args[0])
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), jobcontrol.Checkpoints{Checkpoints: append([]jobview.Checkpoint{}, list...)})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "EPOCH\tRUN\tENDED\tSECONDS\tBYTES\tNEW\tRESULT")
			for _, k := range list {
				result := cmp.Or(k.Error, k.State)
				if k.Savepoint != "" {
					result += ", savepoint " + k.Savepoint
				}
				fmt.Fprintf(w, "%d\t%d\t%s\t%.3f\t%d\t%d\t%s\n", k.Epoch, k.Generation, k.Ended.Format(time.RFC3339), k.Seconds, k.Bytes, k.NewBytes, result)
			}
			return w.Flush()
		})
	}
	return cmd
}
