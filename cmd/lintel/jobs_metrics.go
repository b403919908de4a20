package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

func newJobsMetrics(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metrics JOB",
		Short: "Print a job's counters, distributions and other metrics",
		Long: `Print a job's counters, distributions and other metrics, those that the pipeline defines first.

A value counts work whose result stands (committed). Where all work tried (attempted)
has another value, that follows.`,
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	user := cmd.Flags().Bool("user", false, "only metrics that the pipeline defines")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ask(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			all, err := c.Metrics(ctx, args[0])
			if err != nil {
				return err
			}
			shown := []jobview.Metric{}
			for _, m := range all {
				if m.User() || !*user {
					shown = append(shown, m)
				}
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					Metrics []jobview.Metric `json:"metrics"`
				}{shown})
			}
			return table(cmd.OutOrStdout(), "STEP\tMETRIC\tVALUE", func(w io.Writer) {
				for _, m := range shown {
					fmt.Fprintf(w, "%s\t%s\t%s\n", m.Step, m.Name(), metricValue(m))
				}
			})
		})
	}
	return cmd
}

func metricValue(m jobview.Metric) string {
	switch {
	case m.Committed == nil:
		return fmt.Sprintf("%v (attempted)", m.Attempted)
	case m.Attempted == nil || m.Attempted.String() == m.Committed.String():
		return m.Committed.String()
	}
	return fmt.Sprintf("%v (attempted: %v)", m.Committed, m.Attempted)
}
