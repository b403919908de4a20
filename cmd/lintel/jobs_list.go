package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

func newJobsList(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all jobs that the server remembers",
		Args:  exactly(cobra.NoArgs),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return ask(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			jobs, err := c.List(ctx)
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					Jobs []jobview.Job `json:"jobs"`
				}{jobs})
			}
			return table(cmd.OutOrStdout(), "ID\tNAME\tSTATE", func(w io.Writer) {
				for _, j := range jobs {
					fmt.Fprintf(w, "%s\t%s\t%s\n", j.ID, j.Name, j.State)
				}
			})
		})
	}
	return cmd
}

// table prints rows, whose cells are parted by tabs, in columns.
func table(w io.Writer, header string, rows func(io.Writer)) error {
	columns := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(columns, header)
	rows(columns)
	return columns.Flush()
}
