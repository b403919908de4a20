package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
)

func newJobsCancel(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "cancel JOB",
		Short:             "Cancel a job; one that has ended stays as it is",
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ask(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			state, err := c.Cancel(ctx, args[0])
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
