package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lintel",
		Short: "Run Apache Beam pipelines",
		Long: `Lintel runs Apache Beam pipelines of any SDK.

  lintel dev                             start a server on this machine
  lintel run -- python wordcount.py      run a pipeline, with a server if none runs

Every flag is also read from the environment: --job-port from LINTEL_JOB_PORT, and so on.

` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagsFromEnvironment(cmd.Flags(), os.LookupEnv)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	root.AddCommand(newDev(), newRun(), newSubmit(), newJobs(), newPlan(), newDoctor(), newVersion())
	return root
}

// subcommand refuses arguments of a command that only holds others.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2 // letters that may be wrong
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError(fmt.Errorf("%s", text))
}

// exactly makes a wrong number of arguments an error of usage.
func exactly(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(fmt.Errorf("%s: %w; usage: %s", cmd.CommandPath(), err, cmd.UseLine()))
		}
		return nil
	}
}

// flagsFromEnvironment sets flags that the command line leaves alone from their variables.
func flagsFromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := lookup(variable(f.Name))
		if !ok || f.Changed || f.Name == "help" || failed != nil {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = usageError(fmt.Errorf("environment variable %s: %w", variable(f.Name), err))
		}
	})
	return failed
}

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "LINTEL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
