package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

func newJobsDescribe(endpoint *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "describe JOB",
		Short:             "Show a job's state, pipeline, options and, if it failed, why",
		Args:              exactly(cobra.ExactArgs(1)),
		ValidArgsFunction: completeJobID(endpoint),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ask(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			d, err := c.Describe(ctx, args[0])
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), d)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), describe(d))
			return err
		})
	}
	return cmd
}

func describe(d jobview.Detail) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s "+format+"\n", append([]any{name + ":"}, args...)...)
	}
	row("ID", "%s", d.ID)
	row("Name", "%s", d.Name)
	if d.Changed.IsZero() {
		row("State", "%s", d.State)
	} else {
		row("State", "%s since %s", d.State, d.Changed.Format(time.RFC3339))
	}
	row("Transforms", "%d", d.Pipeline.Transforms)
	kind := "all bounded"
	if d.Pipeline.Unbounded {
		kind = "some unbounded"
	}
	row("PCollections", "%d, %s", d.Pipeline.PCollections, kind)
	for _, e := range d.Pipeline.Environments {
		row("Environment", "%s (%s)", e.ID, e.URN)
	}
	for _, r := range d.Pipeline.Requirements {
		row("Requirement", "%s", r)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Options)) {
		row("Option", "%s = %s", optionName(name), optionValue(d.Options[name]))
	}
	if d.Error != "" {
		fmt.Fprintf(&b, "Error:\n%s\n", indent(d.Error))
	}
	return b.String()
}

// optionName takes the name out of the portable form, beam:option:NAME:v1.
func optionName(wire string) string {
	return strings.TrimSuffix(strings.TrimPrefix(wire, "beam:option:"), ":v1")
}

func optionValue(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}
