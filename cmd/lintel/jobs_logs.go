package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

func newJobsLogs(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs JOB",
		Short: "Print what a job and its harnesses said",
		Long: `Print what a job and its harnesses said, and how its state changed, oldest first.

With --follow it goes on until the job ends, and the exit code tells how it ended. If the server is started
again meanwhile, it goes on where it was.
With --output=json every entry is one line.`,
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	level := levelFlag(cmd)
	follow := cmd.Flags().BoolP("follow", "f", false, "go on until the job ends")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		show := logPrinter(cmd.OutOrStdout(), output.value == "json", level)
		last := ""
		each := func(e jobview.LogEntry) error {
			if e.State != "" {
				last = e.State
			}
			return show(e)
		}
		err := withClient(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			if *follow {
				return c.FollowLogs(ctx, args[0], func(err error) { tellLost(cmd.ErrOrStderr(), err) }, each)
			}
			return c.Logs(ctx, args[0], jobclient.Now, each)
		})
		if err != nil || !*follow {
			return err
		}
		return ofState(args[0], last)
	}
	return cmd
}

// tellLost says that a server has gone, which may come again.
func tellLost(news io.Writer, err error) {
	fmt.Fprintf(news, "lintel: %v; trying again for %v\n", err, jobclient.Patience)
}

// levelFlag is a flag for the least level to show.
func levelFlag(cmd *cobra.Command) func() jobview.Level {
	c := choiceFlag(cmd, "level", "", "least level to show", jobview.LevelNames...)
	c.value = jobview.LevelInfo.String()
	cmd.Flags().Lookup("level").DefValue = c.value
	return func() jobview.Level {
		l, err := jobview.ParseLevel(c.value)
		if err != nil {
			panic(err) // choice takes no other names
		}
		return l
	}
}

// logPrinter returns a function that prints entries of the least level and above,
// and all changes of state.
func logPrinter(w io.Writer, asJSON bool, least func() jobview.Level) func(jobview.LogEntry) error {
	return func(e jobview.LogEntry) error {
		if e.Level < least() && e.State == "" {
			return nil
		}
		if asJSON {
			return json.NewEncoder(w).Encode(e)
		}
		_, err := fmt.Fprintln(w, logLine(e))
		return err
	}
}

// logLine is an entry as people read it; lines after the first are indented.
func logLine(e jobview.LogEntry) string {
	at := "                        "
	if !e.Time.IsZero() {
		at = e.Time.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if e.State != "" {
		return at + " STATE  " + e.State
	}
	text := strings.ReplaceAll(strings.TrimRight(e.Message, "\n"), "\n", "\n    ")
	return fmt.Sprintf("%s %-6s %s", at, strings.ToUpper(e.Level.String()), text)
}
