package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
)

const (
	defaultEndpoint = "localhost:8099"
	// callTimeout bounds commands that only ask one question.
	callTimeout = 30 * time.Second
)

func newJobs() *cobra.Command {
	jobs := &cobra.Command{
		Use:   "jobs",
		Short: "Look at jobs of a server, stop and update them; savepoints",
		Long:  "Look at jobs of a server, drain, stop, cancel and update them, at the endpoint of the Beam Job API; look at savepoints where they lie.\n\n" + exitHelp,
		Args:  subcommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	endpoint := jobs.PersistentFlags().String("endpoint", defaultEndpoint, "job endpoint of the server, host:port")
	jobs.AddCommand(newJobsList(endpoint), newJobsDescribe(endpoint), newJobsCancel(endpoint), newJobsDrain(endpoint), newJobsStop(endpoint),
		newJobsLogs(endpoint), newJobsMetrics(endpoint), newJobsCheckpoints(endpoint), newJobsCheckUpdate(endpoint), newJobsUpdate(endpoint), newJobsSavepoint(endpoint))
	return jobs
}

// withClient calls do with a client of the endpoint; each call has until ctx ends.
func withClient(ctx context.Context, endpoint string, do func(context.Context, *jobclient.Client) error) error {
	c, err := jobclient.New(endpoint)
	if err != nil {
		return usageError(err)
	}
	defer c.Close()
	return do(ctx, c)
}

// ask is withClient for commands that only ask one question.
func ask(ctx context.Context, endpoint string, do func(context.Context, *jobclient.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return withClient(ctx, endpoint, do)
}

// completeJobID offers the ids of the server's jobs.
func completeJobID(endpoint *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (ids []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if flagsFromEnvironment(cmd.Flags(), os.LookupEnv) != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		// Whoever completes a word can't be told of errors: then there is nothing to offer.
		_ = withClient(ctx, *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			jobs, err := c.List(ctx)
			for _, j := range jobs {
				ids = append(ids, cobra.CompletionWithDesc(j.ID, j.Name+" "+j.State))
			}
			return err
		})
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}
