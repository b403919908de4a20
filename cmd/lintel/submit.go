package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/web/jobclient"
)

func newSubmit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "submit PIPELINE.pb",
		Short: "Submit a pipeline that an SDK has written to a file",
		Long: `Submit a pipeline that an SDK has written to a file, print the job's id and leave it alone.

PIPELINE.pb is a Pipeline message of beam_runner_api.proto, binary or as JSON; "-" reads standard input. Files that
its environments name are staged from this machine. A pipeline of which the program is at hand is run by lintel run.

  lintel submit pipeline.pb --option parallelism=4
  lintel submit pipeline.pb --from file:///savepoints/orders-1/20261122T060708.090Z

` + exitHelp,
		Args: exactly(cobra.ExactArgs(1)),
	}
	endpoint := cmd.Flags().String("endpoint", defaultEndpoint, "job endpoint of the server, host:port")
	name := cmd.Flags().String("name", "", "name of the job; by default that of the file")
	from := cmd.Flags().String("from", "", "URI of a savepoint that the job begins with")
	update, given := updateFlags(cmd), optionFlag(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := map[string]any{}
		if err := given.put(o); err != nil {
			return err
		}
		if _, err := update.read(); err != nil {
			return err
		}
		update.put(o)
		if *from != "" {
			o[options.Key("restore_from")] = *from
		}
		p, err := readPipeline(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		if *name == "" {
			*name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
		}
		return withClient(cmd.Context(), *endpoint, func(ctx context.Context, c *jobclient.Client) error {
			id, err := c.Submit(ctx, jobclient.Submission{Name: *name, Pipeline: p, Options: o})
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					ID string `json:"id"`
				}{id})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
			return err
		})
	}
	return cmd
}

// optionValues are the values of --option.
type optionValues struct{ all *[]string }

// optionFlag adds a flag for pipeline options.
func optionFlag(cmd *cobra.Command) optionValues {
	return optionValues{cmd.Flags().StringArray("option", nil, "pipeline option, NAME=VALUE; VALUE is JSON, or text. May be repeated")}
}

// put adds the options given, by their keys on the wire.
func (v optionValues) put(o map[string]any) error {
	for _, option := range *v.all {
		name, text, ok := strings.Cut(option, "=")
		if !ok || name == "" {
			return usageError(fmt.Errorf("--option %s: want NAME=VALUE", option))
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		o[options.Key(name)] = value
	}
	return nil
}
