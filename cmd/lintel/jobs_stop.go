package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// chosen is the value of a flag for a savepoint's URI that leaves it to the server.
const chosen = "auto"

func newJobsStop(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stop JOB",
		Short: "End a running job with a savepoint",
		Long: `End a running job with a savepoint, from which it, or another, can go on: nothing happens after what is in it.
The job is CANCELLED then. With --drain it is drained first, and DRAINED: what goes on from that savepoint begins with
the state, and not with what its sources had not read.

The command waits until the job has ended. If the savepoint fails, the job goes on.`,
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	drain := cmd.Flags().Bool("drain", false, "drain the job before")
	uri := cmd.Flags().String("savepoint", chosen, "URI of the savepoint's folder, file:///FOLDER or gs://BUCKET/FOLDER, as --savepoint=URI; auto leaves it to the server")
	cmd.Flags().Lookup("savepoint").NoOptDefVal = chosen // so --savepoint alone is the same
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *uri == chosen {
			*uri = ""
		}
		return withClient(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			made, err := c.Stop(ctx, args[0], *uri, *drain)
			return tellSavepoint(cmd.OutOrStdout(), output.value, made, err)
		})
	}
	return cmd
}

func newSavepointCreate(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create JOB [URI]",
		Short: "Take a savepoint of a running job, which goes on",
		Long: `Take a savepoint of a running job, which goes on. Without a URI the server chooses where. The job's sources hold back
until all that is under way has been worked off; the command waits for that, and the job's log tells of it.`,
		Args:              exactly(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		uri := ""
		if len(args) > 1 {
			uri = args[1]
		}
		return withClient(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			made, err := c.Savepoint(ctx, args[0], uri)
			return tellSavepoint(cmd.OutOrStdout(), output.value, made, err)
		})
	}
	return cmd
}

// tellSavepoint prints what came of a savepoint.
func tellSavepoint(out io.Writer, format string, made jobview.Savepoint, err error) error {
	switch {
	case err != nil:
		return err
	case format == "json":
		return printJSON(out, made)
	case made.State == "":
		_, err = fmt.Fprintf(out, "%s has the savepoint %s, %d bytes\n", made.ID, made.URI, made.Bytes)
	default:
		_, err = fmt.Fprintf(out, "%s is %s, with the savepoint %s, %d bytes\n", made.ID, made.State, made.URI, made.Bytes)
	}
	return err
}
